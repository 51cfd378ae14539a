//! What may help: one match over all kinds of failure.

pub mod build;

use std::io::ErrorKind;

use kflash::board::Hands;
use kflash::exit::Again;
use kflash::flash::{BoardState, FailureKind};
use kflash::obtain::cache::CacheError;
#[cfg(feature = "fetch")]
use kflash::obtain::fetch::{FetchError, NotListed, SignatureError};

use crate::hands;

/// What a person can do about a failure; `None` where the message says it all.
pub fn hint(kind: &FailureKind, board: BoardState, by_hand: &Hands) -> Option<String> {
    let hint = match kind {
        FailureKind::NoDevice => "`kflash detect` lists what is plugged in. Has the board power, and does the cable \
            carry data? If it never shows up, start its bootloader by hand, then run this again"
            .into(),
        FailureKind::Ambiguous => "name the one that is meant with --device: its port path (1-1.4), its serial number \
            or its tty. `kflash detect` lists them"
            .into(),
        FailureKind::PermissionDenied { node } if node.starts_with("/dev/bus/usb") => "`sudo kflash doctor --udev` \
            installs a rule that gives access to boards; then unplug the board and plug it in again. In a container, \
            the whole of /dev/bus/usb has to be mounted"
            .into(),
        FailureKind::PermissionDenied { node } if node.starts_with("/dev/") => "`sudo kflash doctor --udev` installs \
            a rule that gives access to boards; for ttys alone, `sudo usermod -aG dialout $USER` and a new login do, \
            too"
        .into(),
        FailureKind::PermissionDenied { node } => format!("make {node} accessible to this user, or use sudo"),
        FailureKind::Held { .. } => "stop what holds it, then run this again: `sudo systemctl stop klipper` on a \
            printer's host, `kubectl scale` to 0 in a cluster. ModemManager and brltty take boards for modems and \
            Braille displays: remove them"
            .into(),
        FailureKind::Printing => {
            "wait until it is done, or cancel it. If the board is not this printer's, name its own \
            with --printer, or its device with --device"
                .into()
        }
        FailureKind::NotAsked => {
            "start Moonraker, or mend its address or key in the configuration (`kflash doctor`). If \
            you know that the printer does not print, --no-moonraker goes on without asking; a port that Klipper has \
            open is refused all the same"
                .into()
        }
        FailureKind::CheckFailed => "`kflash inspect FILE` tells what the file is, `kflash boards BOARD` for what \
            it has to be built"
            .into(),
        FailureKind::Protected => "the chip's read protection is set. Lifting it wipes the whole flash, bootloader \
            included, so kflash does not; STM32CubeProgrammer or a debug probe can"
            .into(),
        FailureKind::HandsNeeded { instruction } => {
            format!("do this, then run the same again (in a terminal, kflash waits while you do it): {instruction}")
        }
        FailureKind::DidNotEnter => {
            let mut ways = Vec::new();
            ways.extend(by_hand.double_reset.is_some().then(|| hands::double_reset(by_hand)));
            ways.extend(by_hand.boot0.is_some().then(|| hands::boot0(by_hand)));
            if ways.is_empty() {
                "reset the board and run this again".into()
            } else {
                format!("start the bootloader by hand, then run this again: {}", ways.join("; or "))
            }
        }
        FailureKind::LeftMeanwhile => "run the same again: the board was about to leave its bootloader".into(),
        FailureKind::LinkLost | FailureKind::WriteFailed | FailureKind::ReadBackDiffers => {
            let chip = match kind {
                FailureKind::ReadBackDiffers => {
                    ". If it differs again, the chip's flash is worn or the chip is \
                    not what it says"
                }
                _ => "",
            };
            match board {
                BoardState::Incomplete(way) => {
                    format!(
                        "run the same again; if the board does not answer, first {}{chip}",
                        hands::way_back(way, by_hand)
                    )
                }
                BoardState::Unknown => format!("`kflash detect` shows where the board is now{chip}"),
                _ => format!("check cable and hub, then run the same again{chip}"),
            }
        }
        FailureKind::ReadBackRefused => "the bootloader does not let its flash be read, so nothing proves what is in \
            it. `kflash verify` compares what the running firmware says of itself"
            .into(),
        FailureKind::DidNotReturn => "press reset or cycle the power, then `kflash verify`. If it stays away, the \
            firmware may be built for another crystal, cable or bootloader offset"
            .into(),
        FailureKind::RunsSomethingElse => "press reset, then `kflash verify`. Another program may have flashed it \
            meanwhile, or the board on this port was exchanged"
            .into(),
        FailureKind::Mismatch => "`kflash flash` with the same arguments writes the firmware".into(),
        FailureKind::Taken => "something opened the port as soon as it was back, most likely Klipper: that is a good \
            sign. Stop it and run `kflash verify`, or read the MCU's version in Klipper's log"
            .into(),
        FailureKind::Interrupted => match board {
            BoardState::InBootloader | BoardState::Unknown => {
                "the application is whole: press reset if it does not run, or run this again".into()
            }
            BoardState::Written => "`kflash verify` tells whether it runs".into(),
            BoardState::Incomplete(way) => {
                format!("run the same again; if the board does not answer, first {}", hands::way_back(way, by_hand))
            }
            _ => "run the same again when you like".into(),
        },
        FailureKind::Phase => {
            "run the same in a container that is created now, with the same directory for --phased".into()
        }
        FailureKind::NoNode => "name a path that stays to the device plugin, such as one of /dev/serial/by-path; or \
            mount the node's whole /dev in a privileged container, which follows every board"
            .into(),
        FailureKind::NoProbe => "`kflash detect` lists the debug probes that are plugged in: CMSIS-DAP v2, ST-Link v2 \
            and v3, J-Link"
            .into(),
        FailureKind::SeveralProbes => "name the one that is meant with --probe VID:PID:SERIAL; `kflash detect` lists \
            them"
            .into(),
        FailureKind::ProbeDenied { .. } => "`sudo kflash doctor --udev` installs a rule that gives access to debug \
            probes; then unplug the probe and plug it in again. In a container, its node below /dev/bus/usb has to be \
            there and writable"
            .into(),
        FailureKind::ProbeHeld => "stop what uses the probe: another kflash, OpenOCD, a debugger".into(),
        FailureKind::NoChip => {
            let pins = by_hand.swd.as_deref().unwrap_or("the board's SWD pins");
            format!(
                "has the board power of its own, and do SWDIO, SWCLK and GND lead from the probe to {pins}? Firmware \
                 may use these pins for something else: then the chip answers out of a reset alone, for which the \
                 probe's reset line has to be connected, and `kflash verify` takes --read-back"
            )
        }
        FailureKind::HeldInReset => "let go of the board's reset button; a reset line that the probe shares with \
            something else may be held by it"
            .into(),
        FailureKind::WrongChip => "is it the board that was named? `kflash detect --query` says which chip is behind \
            the probe"
            .into(),
        FailureKind::Locked => "--unlock of `kflash flash` and `kflash install-bootloader` lifts the chip's read \
            protection, which ERASES ALL OF IT, bootloader included"
            .into(),
        FailureKind::NoDefinition => "`kflash boards BOARD` lists the ways that it can be flashed".into(),
        FailureKind::Other => return None,
    };
    Some(hint)
}

/// What a person can do about a cache that cannot be used.
pub fn cache(error: &CacheError) -> Option<String> {
    let elsewhere = "--cache-dir names another directory";
    match error {
        CacheError::Untrusted { path, .. } => Some(format!(
            "whoever can write to the cache can have any firmware flashed. If only you should: `chmod go-w {}`. A \
             directory below it, such as --cache-dir {}, is made for you alone",
            path.display(),
            path.join("kflash").display()
        )),
        CacheError::Io { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied => {
                Some(format!("a run as another user, maybe with sudo, may have made it; {elsewhere}"))
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Some(format!("`kflash cache gc --keep-days 0` frees what no device needs; {elsewhere}"))
            }
            ErrorKind::ReadOnlyFilesystem => Some(format!("the file system is mounted read-only; {elsewhere}")),
            _ => None,
        },
        CacheError::Locked { .. } => Some("see what that process does, then run this again".into()),
        CacheError::NoDirectory(_)
        | CacheError::Inconsistent(_)
        | CacheError::Provenance(_)
        | CacheError::BadName(_) => None,
    }
}

/// What a person can do about firmware that was not fetched.
#[cfg(feature = "fetch")]
pub fn fetch(error: &FetchError) -> Option<String> {
    let hint = match error {
        FetchError::Unreachable { .. } => {
            "is the server up, and does this machine reach it? What has come is kept: the \
            same again goes on with it. HTTPS_PROXY names a proxy"
                .into()
        }
        FetchError::Status { .. } | FetchError::Redirect { .. } => "is the URL right? --from names the index".into(),
        FetchError::Tls { problem, .. } if problem.contains("Expired") || problem.contains("NotValidYet") => {
            "`date` should tell the right time: certificates are for a span of it".into()
        }
        FetchError::Tls { .. } => "if the server has an authority of its own, --ca names its certificate".into(),
        FetchError::Proxy { .. } => "HTTPS_PROXY or ALL_PROXY names the proxy, NO_PROXY the hosts without".into(),
        FetchError::Unreadable { .. } => "--from names the index".into(),
        FetchError::Unsigned { .. } => {
            "its publisher signs it with `kflash publish --sign`; --allow-unsigned takes it \
            as it is, and trusts whoever can change it"
                .into()
        }
        FetchError::Signature { error: SignatureError::OtherKey { .. }, .. } => {
            "ask the publisher, and not through the \
            same server, whether there is a new key. If there is: --key"
                .into()
        }
        FetchError::Signature { .. } => "do not use it: somebody may want to have other firmware run. Ask its \
            publisher"
            .into(),
        FetchError::Replayed { .. } => {
            "somebody may want to have old firmware run, or the server is behind: try later. \
            --allow-old takes it"
                .into()
        }
        FetchError::Seen { path, .. } => {
            format!("remove {}; until the next index, an old one then passes unseen", path.display())
        }
        FetchError::NotListed { error: NotListed::Version { .. }, .. } => {
            "without --version, the first is taken".into()
        }
        FetchError::NotListed { error: NotListed::Route { .. }, .. } => {
            "`kflash boards BOARD` says what each route takes; without --route, the first that is there is taken".into()
        }
        FetchError::NotListed { .. } => "`kflash build` makes firmware for it from a Klipper tree".into(),
        FetchError::Differs { .. } | FetchError::NotAnImage { .. } | FetchError::Disagrees { .. } => {
            "nothing of it was kept. Tell the index's publisher".into()
        }
        FetchError::Protocol { .. } | FetchError::Index { .. } | FetchError::Reference { .. } => {
            "is it an index that `kflash publish` made? --from names it".into()
        }
        FetchError::Interrupted => "the same again goes on where it was".into(),
        FetchError::Cache(error) => return cache(error),
    };
    Some(hint)
}

/// In what state a board is left, in words.
pub fn state(board: BoardState) -> String {
    match board {
        BoardState::Untouched => "untouched".into(),
        BoardState::RunsAsBefore => "nothing was erased, it runs as before".into(),
        BoardState::InBootloader => "nothing was erased, it waits in its bootloader".into(),
        BoardState::Incomplete(way) => {
            format!("its application is incomplete, its bootloader answers; after a loss of power, way back: {way}")
        }
        BoardState::Written => "written and verified, but not seen running".into(),
        BoardState::Unknown => "not known".into(),
    }
}

/// Whether the same command may be run again, in words.
pub fn again(again: Again) -> &'static str {
    match again {
        Again::Done => "is not needed",
        Again::Yes => "may help",
        Again::Once => "may help, once",
        Again::Later => "helps when what holds the board has let go",
        Again::AtOnce => "helps at once, in a fresh container",
        Again::No => "cannot help before something else has changed",
        Again::Person => "may help once a person has looked at the board",
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use kflash::exit::ExitCode;
    use kflash::plan::WayBack;

    use super::*;

    /// Every kind; the match makes the compiler ask for new ones.
    fn every_kind() -> Vec<FailureKind> {
        let node = |node: &str| node.to_owned();
        let kinds = vec![
            FailureKind::NoDevice,
            FailureKind::Ambiguous,
            FailureKind::PermissionDenied { node: node("/dev/ttyACM0") },
            FailureKind::PermissionDenied { node: node("/dev/bus/usb/001/005") },
            FailureKind::PermissionDenied { node: node("/run/kflash/1-1.4.lock") },
            FailureKind::Held { node: node("/dev/ttyACM0") },
            FailureKind::Printing,
            FailureKind::NotAsked,
            FailureKind::CheckFailed,
            FailureKind::Protected,
            FailureKind::HandsNeeded { instruction: "press RESET twice within half a second".into() },
            FailureKind::DidNotEnter,
            FailureKind::LeftMeanwhile,
            FailureKind::LinkLost,
            FailureKind::WriteFailed,
            FailureKind::ReadBackDiffers,
            FailureKind::ReadBackRefused,
            FailureKind::DidNotReturn,
            FailureKind::RunsSomethingElse,
            FailureKind::Mismatch,
            FailureKind::Taken,
            FailureKind::Interrupted,
            FailureKind::Phase,
            FailureKind::NoNode,
            FailureKind::NoProbe,
            FailureKind::SeveralProbes,
            FailureKind::ProbeDenied { probe: "0d28:0204 (DAPLink)".into() },
            FailureKind::ProbeHeld,
            FailureKind::NoChip,
            FailureKind::HeldInReset,
            FailureKind::WrongChip,
            FailureKind::Locked,
            FailureKind::NoDefinition,
            FailureKind::Other,
        ];
        for kind in &kinds {
            match kind {
                FailureKind::NoDevice
                | FailureKind::Ambiguous
                | FailureKind::PermissionDenied { .. }
                | FailureKind::Held { .. }
                | FailureKind::Printing
                | FailureKind::NotAsked
                | FailureKind::CheckFailed
                | FailureKind::Protected
                | FailureKind::HandsNeeded { .. }
                | FailureKind::DidNotEnter
                | FailureKind::LeftMeanwhile
                | FailureKind::LinkLost
                | FailureKind::WriteFailed
                | FailureKind::ReadBackDiffers
                | FailureKind::ReadBackRefused
                | FailureKind::DidNotReturn
                | FailureKind::RunsSomethingElse
                | FailureKind::Mismatch
                | FailureKind::Taken
                | FailureKind::Interrupted
                | FailureKind::Phase
                | FailureKind::NoNode
                | FailureKind::NoProbe
                | FailureKind::SeveralProbes
                | FailureKind::ProbeDenied { .. }
                | FailureKind::ProbeHeld
                | FailureKind::NoChip
                | FailureKind::HeldInReset
                | FailureKind::WrongChip
                | FailureKind::Locked
                | FailureKind::NoDefinition
                | FailureKind::Other => {}
            }
        }
        kinds
    }

    #[test]
    fn hints() {
        let hands = Hands {
            double_reset: Some("press RESET twice within half a second".into()),
            boot0: Some("fit the BOOT0 jumper, then press RESET".into()),
            ..Hands::default()
        };
        let states = [
            BoardState::Untouched,
            BoardState::InBootloader,
            BoardState::Incomplete(WayBack::Boot0),
            BoardState::Written,
            BoardState::Unknown,
        ];
        let mut text = String::new();
        for kind in every_kind() {
            let mut said: Vec<Option<String>> = Vec::new();
            let _ = writeln!(text, "{kind:?}");
            for state in states {
                let hint = hint(&kind, state, &hands);
                if !said.contains(&hint) {
                    let _ = writeln!(text, "  {state:?}: {}", hint.as_deref().unwrap_or("-"));
                    said.push(hint);
                }
            }
        }
        for left in states.into_iter().chain([BoardState::RunsAsBefore]) {
            let _ = writeln!(text, "board {left:?}: {}", state(left));
        }
        for exit in [ExitCode::Ok, ExitCode::Refused, ExitCode::Busy, ExitCode::Write, ExitCode::Verify, ExitCode::Lost]
        {
            let _ = writeln!(text, "trying again after {exit:?}: {}", again(exit.again()));
        }
        snapbox::assert_data_eq!(text, snapbox::file!["hint.golden"]);
    }
}
