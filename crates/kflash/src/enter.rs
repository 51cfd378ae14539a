//! Stage 5: into the bootloader, and back out of it when nothing was erased.

use std::time::Duration;

use crate::addr::{FlashRange, FlashSize};
use crate::board::{Cable, Entry, Route};
use crate::discover::{Device, DiscoverError, Mode};
use crate::event::{Event, Phase};
use crate::exit::ExitCode;
use crate::flash::{BoardState, FailureKind, FlashError, Run};
use crate::follow::{self, Waited};
use crate::klipper::client::Client;
use crate::klipper::request;
use crate::link::LinkError;
use crate::plan::{Plan, Target, cable_of};
use crate::proto::dfuse::DfuSe;
use crate::proto::katapult::{self, Katapult};
use crate::proto::{Bootloader, ProtoError, Protocol};

/// Klipper resets at once and a bootloader enumerates in 0.6 s (seen); a slow hub takes seconds.
const ENUMERATION_LIMIT: Duration = Duration::from_secs(8);
/// How long a person has.
pub(crate) const HANDS_LIMIT: Duration = Duration::from_secs(120);
/// udev needs a moment to hand a new node over.
const NODE_LIMIT: Duration = Duration::from_secs(3);
const NODE_POLL: Duration = Duration::from_millis(50);
/// After the request on a UART, Katapult needs that long until it listens (flashtool waits as long).
const UART_ENTRY: Duration = Duration::from_secs(1);
/// Long enough for the capacitor between DTR and reset.
const DTR_PULSE: Duration = Duration::from_millis(50);
/// Katapult takes a second reset 10 to 500 ms after the first for a wish to stay.
const BETWEEN_RESETS: Duration = Duration::from_millis(200);
/// Where a profile names no rate for Katapult on a UART.
const KATAPULT_BAUD: u32 = 250_000;
/// Katapult's signature lies within its first few KiB; no build seen is larger.
const RESIDENT_READ: u32 = 16 * 1024;

/// The bootloader, entered and connected to.
pub(crate) struct Entered<'a> {
    pub bootloader: Box<dyn Bootloader + 'a>,
    pub target: Target,
    /// Whether a person brought it there, or it was found there: BOOT0 may still be set.
    pub by_hand: bool,
}

/// Brings the device into the bootloader of the plan's route and connects to it.
pub(crate) fn enter<'a>(run: &mut Run<'a>, plan: &Plan) -> Result<Entered<'a>, FlashError> {
    let mut board = if run.running.is_some() { BoardState::RunsAsBefore } else { BoardState::Untouched };
    match run.device.mode {
        Mode::Katapult | Mode::Dfu => {
            run.begin(Phase::Enter, format!("{} is in its bootloader already", run.place()));
            return connect(run, plan, true).map_err(|error| left_meanwhile(run, error));
        }
        Mode::Klipper => {
            run.begin(Phase::Enter, format!("asking Klipper at {} for its bootloader", run.place()));
            if plan.route.enter.contains(&Entry::Touch1200) && touch(run)? {
                return connect(run, plan, false);
            }
        }
        _ if cable_of(&run.found) == Cable::Uart => {
            if let (Some(baud), true) = (run.running_baud, plan.route.enter.contains(&Entry::UartRequest)) {
                run.begin(Phase::Enter, format!("asking Klipper at {} for its bootloader", run.place()));
                request_on_uart(run, baud)?;
            } else {
                run.begin(Phase::Enter, format!("nothing answers as Klipper at {}: trying Katapult", run.place()));
                if run.request.profile.opening_resets && plan.route.enter.contains(&Entry::DoubleReset) {
                    reset_twice(run, plan)?;
                }
            }
            match connect(run, plan, run.running.is_none()) {
                // It may have left Klipper, for a bootloader that speaks at another rate or not at all.
                Err(error) if error.kind == FailureKind::DidNotEnter => {
                    if run.running.is_some() && !runs_again(run) {
                        board = BoardState::Unknown;
                    }
                }
                connected => return connected,
            }
        }
        // Nothing is sent to what cannot be known to listen.
        _ => run.begin(Phase::Enter, format!("the device at {} is neither in Klipper nor a bootloader", run.place())),
    }
    by_hand(run, plan, board)?;
    connect(run, plan, true)
}

/// Tells a bootloader that left by itself, cut off in the middle of an earlier leave, from one that does not answer.
fn left_meanwhile(run: &mut Run<'_>, error: FlashError) -> FlashError {
    let place = run.place().clone();
    let left = |device: &Device| device.mode == Mode::Klipper;
    let waited = (error.kind == FailureKind::DidNotEnter)
        .then(|| follow::wait_for(run.host, &place, ENUMERATION_LIMIT, Some(run.interrupt), left));
    match waited {
        Some(Ok(Waited::Found(_))) => FlashError { kind: FailureKind::LeftMeanwhile, ..error },
        _ => error,
    }
}

/// Ends a run that erased nothing: starts the application again if one ran. Returns `failure` with the board's true state.
pub(crate) fn put_back(run: &mut Run<'_>, mut entered: Entered<'_>, mut failure: FlashError) -> FlashError {
    failure.board = BoardState::InBootloader;
    if run.ran_before() {
        let ran_at = run.running.as_ref().and_then(|running| running.app_start);
        // Where nothing tells, as a reset does.
        let start = entered.target.info.app_start.or(ran_at).unwrap_or(run.request.chip.flash_start);
        let started = entered.bootloader.start(start).is_ok();
        drop(entered);
        if started && runs_again(run) {
            failure.board = BoardState::RunsAsBefore;
        }
    }
    run.failed(failure)
}

fn runs_again(run: &mut Run<'_>) -> bool {
    let place = run.place().clone();
    if run.uart.is_none() {
        let back = follow::wait_for(run.host, &place, ENUMERATION_LIMIT, None, |device| device.mode == Mode::Klipper);
        return matches!(back, Ok(Waited::Found(_)));
    }
    let baud = run.running_baud.unwrap_or(KATAPULT_BAUD);
    match run.open_serial(baud) {
        Ok(link) => Client::connect(link, run.host.clock(), ENUMERATION_LIMIT).is_ok(),
        Err(_) => false,
    }
}

/// The 1200-baud touch. Whether the device came back in a bootloader; it stays Klipper where the firmware has no way in.
fn touch(run: &mut Run<'_>) -> Result<bool, FlashError> {
    let place = run.place().clone();
    let failed = |error: &LinkError| {
        FlashError::link(&format!("cannot open the device at {place}"), error, BoardState::Untouched, ExitCode::Enter)
            .at(&place)
    };
    let mut link = run.open_serial(KATAPULT_BAUD).map_err(|error| failed(&error))?;
    match request::touch_1200(link.as_mut(), run.host.clock()) {
        // The device may leave while the last request is still under way.
        Ok(()) | Err(LinkError::Gone) => {}
        // The firmware may have heard it all the same.
        Err(error) => return Err(FlashError { board: BoardState::Unknown, ..failed(&error) }),
    }
    drop(link);
    let in_bootloader = |device: &Device| matches!(device.mode, Mode::Katapult | Mode::Dfu);
    let waited = follow::wait_for(run.host, &place, ENUMERATION_LIMIT, None, in_bootloader);
    match waited.map_err(|error| cannot_follow(run, &error))? {
        Waited::Found(device) => {
            run.device = *device;
            run.still_here(BoardState::InBootloader, "Klipper left for its bootloader")?;
            Ok(true)
        }
        Waited::TimedOut(Some(device)) if device.mode == Mode::Klipper => {
            run.device = *device;
            run.warn("Klipper did not leave for a bootloader: its firmware knows no way into one");
            Ok(false)
        }
        Waited::TimedOut(_) | Waited::Interrupted => {
            let message = format!("the device at {place} left, and no bootloader came in its place{}", elsewhere(run));
            Err(run.failed(FlashError::new(ExitCode::Enter, FailureKind::DidNotEnter, BoardState::Unknown, message)))
        }
    }
}

/// The device was last seen on its way into the bootloader.
fn cannot_follow(run: &Run<'_>, error: &DiscoverError) -> FlashError {
    let message = format!("cannot follow the device at {} into its bootloader: {error}", run.place());
    run.failed(FlashError::new(ExitCode::Enter, FailureKind::DidNotEnter, BoardState::Unknown, message))
}

/// A hint where the device with the same serial number turned up on another port.
pub(crate) fn elsewhere(run: &Run<'_>) -> String {
    let serial_of = |device: &Device| device.usb.as_ref().and_then(|usb| usb.serial.clone());
    let Some(serial) = serial_of(&run.found) else { return String::new() };
    let scan = run.host.scan().unwrap_or_default();
    let moved = scan
        .devices
        .iter()
        .find(|device| device.place != *run.place() && serial_of(device).is_some_and(|other| other == serial));
    moved.map_or_else(String::new, |device| {
        format!("; a device with its serial number is at {} now: was the cable moved?", device.place)
    })
}

fn request_on_uart(run: &mut Run<'_>, baud: u32) -> Result<(), FlashError> {
    let doing = format!("cannot ask Klipper at {} for its bootloader", run.place());
    let failed = |run: &Run<'_>, error: &LinkError| {
        run.failed(FlashError::link(&doing, error, BoardState::Untouched, ExitCode::Enter))
    };
    let mut link = run.open_serial(baud).map_err(|error| failed(run, &error))?;
    request::uart_request(link.as_mut(), run.host.clock())
        .map_err(|error| FlashError { board: BoardState::Unknown, ..failed(run, &error) })?;
    run.host.clock().sleep(UART_ENTRY);
    Ok(())
}

/// Where the port's DTR is wired to reset, kflash can press it twice by itself. Harmless in Katapult, which stays.
fn reset_twice(run: &mut Run<'_>, plan: &Plan) -> Result<(), FlashError> {
    let doing = format!("cannot reset the device at {}", run.place());
    let baud = plan.route.bootloader_baud.unwrap_or(KATAPULT_BAUD);
    let clock = run.host.clock();
    let done = run.open_serial(baud).and_then(|mut link| {
        for _ in 0..2 {
            link.set_dtr(false)?;
            clock.sleep(DTR_PULSE);
            link.set_dtr(true)?;
            clock.sleep(BETWEEN_RESETS);
        }
        Ok(())
    });
    match done {
        // A pty has no DTR, and nothing to be reset by it.
        Ok(()) | Err(LinkError::Unsupported { .. }) => Ok(()),
        Err(error) => Err(run.failed(FlashError::link(&doing, &error, BoardState::Untouched, ExitCode::Enter))),
    }
}

/// Tells the person what to do and waits until a bootloader is there. `board`: its state until then.
fn by_hand(run: &mut Run<'_>, plan: &Plan, board: BoardState) -> Result<(), FlashError> {
    let hands = &run.request.profile.hands;
    let instruction = plan.route.enter.iter().find_map(|entry| match entry {
        Entry::DoubleReset => hands.double_reset.clone(),
        Entry::Boot0 => hands.boot0.clone(),
        Entry::Touch1200 | Entry::UartRequest => None,
    });
    let Some(instruction) = instruction else {
        let message = format!("no way into the bootloader of {} is left to try", plan.board);
        return Err(run.failed(FlashError::new(ExitCode::Enter, FailureKind::DidNotEnter, board, message)));
    };
    let kind = FailureKind::HandsNeeded { instruction: instruction.clone() };
    if !run.hands {
        let message =
            format!("the device at {} can enter its bootloader by hand only, and nobody is at a terminal", run.place());
        return Err(run.failed(FlashError::new(ExitCode::Enter, kind, board, message)));
    }
    run.emit(Event::HandsNeeded { instruction, wait_s: HANDS_LIMIT.as_secs() });
    if run.uart.is_some() {
        return wait_on_uart(run, &plan.route, kind);
    }
    let place = run.place().clone();
    let in_bootloader = |device: &Device| matches!(device.mode, Mode::Katapult | Mode::Dfu);
    let waited = follow::wait_for(run.host, &place, HANDS_LIMIT, Some(run.interrupt), in_bootloader);
    match waited.map_err(|error| cannot_follow(run, &error))? {
        Waited::Found(device) => {
            run.device = *device;
            Ok(())
        }
        Waited::Interrupted => {
            let message = "stopped by a signal before anything was erased";
            Err(run.failed(FlashError::new(ExitCode::Cancelled, FailureKind::Interrupted, board, message)))
        }
        Waited::TimedOut(_) => {
            let message = format!("no bootloader came to {place} within {} s{}", HANDS_LIMIT.as_secs(), elsewhere(run));
            Err(run.failed(FlashError::new(ExitCode::Enter, kind, BoardState::Unknown, message)))
        }
    }
}

/// On a UART nothing enumerates: whoever answers Katapult's CONNECT is there.
fn wait_on_uart(run: &mut Run<'_>, route: &Route, kind: FailureKind) -> Result<(), FlashError> {
    let deadline = run.host.clock().now() + HANDS_LIMIT;
    while run.host.clock().now() < deadline {
        if run.interrupt.requested() {
            let message = "stopped by a signal before anything was erased";
            let failure =
                FlashError::new(ExitCode::Cancelled, FailureKind::Interrupted, BoardState::Untouched, message);
            return Err(run.failed(failure));
        }
        let baud = route.bootloader_baud.unwrap_or(KATAPULT_BAUD);
        let link = run.open_serial(baud).map_err(|error| {
            let doing = format!("cannot use the port of {}", run.place());
            run.failed(FlashError::link(&doing, &error, BoardState::Unknown, ExitCode::Enter))
        })?;
        if Katapult::connect(link, run.host.clock(), false).is_ok() {
            return Ok(());
        }
    }
    let message = format!("Katapult did not answer at {} within {} s", run.place(), HANDS_LIMIT.as_secs());
    Err(run.failed(FlashError::new(ExitCode::Enter, kind, BoardState::Unknown, message)))
}

/// Opens the bootloader that the device is in, and asks it what it is.
fn connect<'a>(run: &mut Run<'a>, plan: &Plan, by_hand: bool) -> Result<Entered<'a>, FlashError> {
    let protocol = match run.device.mode {
        Mode::Katapult => Protocol::Katapult,
        Mode::Dfu => Protocol::Dfuse,
        _ => plan.route.protocol,
    };
    warn_of_another_serial(run, protocol);
    let host = run.host;
    let bootloader: Box<dyn Bootloader + 'a> = match protocol {
        Protocol::Katapult => {
            let baud = plan.route.bootloader_baud.unwrap_or(KATAPULT_BAUD);
            let link = patiently(run, |run| run.open_serial(baud))?;
            let product = run.device.usb.as_ref().and_then(|usb| usb.product.as_deref());
            let prime = run.uart.is_none() && product.is_some_and(katapult::needs_priming);
            Box::new(Katapult::connect(link, host.clock(), prime).map_err(|error| did_not_enter(run, &error))?)
        }
        Protocol::Dfuse => {
            let link = patiently(run, |run| run.host.open_usb(&run.device))?;
            let quirks = run.request.chip.rom_dfu.as_ref().map_or(&[][..], |rom| &rom.quirks);
            Box::new(DfuSe::connect(link, host.clock(), quirks).map_err(|error| did_not_enter(run, &error))?)
        }
        Protocol::Swd => {
            let message = format!("{} is reached over its cable, and SWD takes a debug probe", run.place());
            let refused = FlashError::new(ExitCode::Refused, FailureKind::CheckFailed, BoardState::Untouched, message);
            return Err(run.failed(refused));
        }
    };
    let info = bootloader.info().clone();
    let usb = run.device.usb.clone();
    let mut entered = Entered { bootloader, target: Target { info, usb, head: None }, by_hand };
    if protocol == Protocol::Dfuse {
        match read_head(run, entered.bootloader.as_mut()) {
            Ok(head) => entered.target.head = Some(head),
            // The chip is read-protected.
            Err(ProtoError::Status { .. }) => {}
            // Its own layout has no such flash, or none that it reads out.
            Err(error @ ProtoError::Unsupported { .. }) => {
                let message = format!("the bootloader at {} does not fit {}: {error}", run.place(), plan.board);
                let kind = FailureKind::CheckFailed;
                let refused = FlashError::new(ExitCode::Refused, kind, BoardState::InBootloader, message);
                return Err(put_back(run, entered, refused));
            }
            Err(error) => return Err(did_not_enter(run, &error)),
        }
    }
    Ok(entered)
}

/// The first bytes of the flash, where a resident bootloader lies.
fn read_head(run: &Run<'_>, bootloader: &mut dyn Bootloader) -> Result<Vec<u8>, ProtoError> {
    let flash = run.request.chip.flash();
    let size = flash.size.0.min(RESIDENT_READ);
    bootloader.read(FlashRange { start: flash.start, size: FlashSize(size) }, &mut |_| ())
}

fn did_not_enter(run: &Run<'_>, error: &dyn std::error::Error) -> FlashError {
    let message = format!("no bootloader answers at {}: {error}", run.place());
    run.failed(FlashError::new(ExitCode::Enter, FailureKind::DidNotEnter, BoardState::Unknown, message))
}

/// Opens a node that has just appeared: udev may not have handed it over yet.
fn patiently<'a, T>(
    run: &mut Run<'a>,
    mut open: impl FnMut(&mut Run<'a>) -> Result<T, LinkError>,
) -> Result<T, FlashError> {
    let deadline = run.host.clock().now() + NODE_LIMIT;
    loop {
        match open(run) {
            Ok(link) => return Ok(link),
            Err(error) if run.host.clock().now() >= deadline => {
                return Err(run.failed(cannot_open(run, &error)));
            }
            Err(_) => run.host.clock().sleep(NODE_POLL),
        }
        if let Ok(Some(device)) = follow::at(run.host, run.place()) {
            run.device = device;
        }
    }
}

fn cannot_open(run: &Run<'_>, error: &LinkError) -> FlashError {
    let board = match run.device.mode {
        Mode::Katapult | Mode::Dfu => BoardState::InBootloader,
        _ => BoardState::Unknown,
    };
    let doing = format!("cannot open the bootloader at {}", run.place());
    let failure = FlashError::link(&doing, error, board, ExitCode::Enter);
    // "Busy" and "denied" promise that nothing was done to the board, which has left its application by now.
    if run.found.mode == run.device.mode { failure } else { FlashError { exit: ExitCode::Enter, ..failure } }
}

/// Another serial number on the same traced port is told, not refused: bootloaders make their own.
fn warn_of_another_serial(run: &mut Run<'_>, protocol: Protocol) {
    let serial = |device: &Device| device.usb.as_ref().and_then(|usb| usb.serial.clone());
    let (Some(was), Some(is)) = (serial(&run.found), serial(&run.device)) else { return };
    // Only Katapult shows the chip id that Klipper shows; a ROM's serial number is made by rules of its own.
    if protocol == Protocol::Katapult && was != is {
        run.warn(format!(
            "the device at {} showed serial number {} before and shows {} now",
            run.place(),
            was.escape_debug(),
            is.escape_debug()
        ));
    }
}
