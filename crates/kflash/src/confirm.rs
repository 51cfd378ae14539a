//! Stage 7: is the board back, and does it run the image?

#[cfg(feature = "swd")]
pub(crate) mod of_chip;

use std::time::Duration;

use crate::addr::FlashAddr;
use crate::board::BootloaderKind;
use crate::discover::{Device, Mode};
use crate::enter::{HANDS_LIMIT, elsewhere};
use crate::event::{Check, Event, Phase, Verdict};
use crate::exit::ExitCode;
use crate::flash::{BoardState, FailureKind, FlashError, Run, Started};
use crate::follow::{self, Waited};
use crate::host::Holders;
use crate::klipper::client::{Client, KlipperError};
use crate::klipper::dictionary::Dictionary;
use crate::link::LinkError;
use crate::plan::Plan;
use crate::proto::Bootloader as _;
use crate::proto::katapult::{self, Katapult};

/// How long a started application may take to enumerate.
const RETURN_LIMIT: Duration = Duration::from_secs(20);
/// How long udev and its helpers may keep a returned port.
const NODE_LIMIT: Duration = Duration::from_secs(5);
const NODE_POLL: Duration = Duration::from_millis(50);
/// Where a profile names no rate for Katapult; USB ignores it.
const KATAPULT_BAUD: u32 = 250_000;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long what is behind a UART may take to reset and start again: no enumeration tells when it does.
const UART_RESET: Duration = Duration::from_millis(500);
/// How often a reset is sent that does not take place: nothing acknowledges it, so that a lost one goes unnoticed.
const RESETS: u32 = 2;

/// What runs now.
pub(crate) struct Confirmed {
    pub dictionary: Dictionary,
    pub checks: Vec<Check>,
}

/// Waits for the application, compares its dictionary with the image's and, behind a resident bootloader, once more after
/// a reset. `by_hand`: BOOT0 may still be set.
pub(crate) fn confirm(run: &mut Run<'_>, plan: &Plan, by_hand: bool) -> Result<Confirmed, FlashError> {
    run.begin(Phase::Confirm, format!("waiting for the application at {}", run.place()));
    await_klipper(run, Start::ByBootloader)?;
    run.still_here(BoardState::Written, "written, verified and started")?;
    let (client, dictionary) = ask_image(run)?;
    prove(run, plan.bootloader, client, dictionary, by_hand)
}

/// The same for what an earlier phase of this flash has started.
pub(crate) fn resume(run: &mut Run<'_>, started: &Started) -> Result<Confirmed, FlashError> {
    run.begin(Phase::Confirm, format!("waiting for the application at {}", run.place()));
    await_klipper(run, Start::Earlier)?;
    run.still_here(BoardState::Written, "it runs")?;
    let (client, dictionary) = ask_image(run)?;
    if started.confirmed {
        return Ok(Confirmed { dictionary, checks: Vec::new() });
    }
    prove(run, started.bootloader, client, dictionary, false)
}

/// Proves that a resident bootloader starts the application.
fn prove<'a>(
    run: &mut Run<'a>,
    bootloader: BootloaderKind,
    client: Client<'a>,
    dictionary: Dictionary,
    by_hand: bool,
) -> Result<Confirmed, FlashError> {
    if bootloader == BootloaderKind::None {
        if let (true, Some(undo)) = (by_hand, &run.request.profile.hands.boot0_undo) {
            run.note(format!("if BOOT0 was set by hand: {undo}"));
        }
        return Ok(Confirmed { dictionary, checks: Vec::new() });
    }
    run.begin(Phase::Confirm, "resetting it once more: does the resident bootloader start it?");
    let check = prove_boot_path(run, client, by_hand)?;
    Ok(Confirmed { dictionary, checks: vec![check] })
}

/// Waits for Katapult, or what it starts, at the device's place.
pub(crate) fn katapult(run: &mut Run<'_>, app_start: FlashAddr) -> Result<Check, FlashError> {
    run.begin(Phase::Confirm, format!("waiting for Katapult at {}", run.place()));
    let place = run.place().clone();
    let started = |device: &Device| matches!(device.mode, Mode::Klipper | Mode::Katapult);
    match follow::wait_for(run.host, &place, RETURN_LIMIT, None, started) {
        Ok(Waited::Found(device)) => run.device = *device,
        Ok(_) => {
            let what =
                format!("neither Katapult nor an application came to {place} within {} s", RETURN_LIMIT.as_secs());
            return Err(not_back(run, &what));
        }
        Err(error) => return Err(not_back(run, &error.to_string())),
    }
    katapult_answers(run, app_start)
}

/// Asks Katapult where it starts applications; an application that runs is proof enough.
fn katapult_answers(run: &mut Run<'_>, app_start: FlashAddr) -> Result<Check, FlashError> {
    let name = "Katapult starts applications where this board's lie".to_owned();
    if run.device.mode == Mode::Klipper {
        let evidence = format!("it starts the application that lay there: see {}", run.device.place);
        return Ok(Check { name, verdict: Verdict::Agrees, evidence });
    }
    let link = open(run, KATAPULT_BAUD)?;
    let lost = |run: &Run<'_>, what: String| {
        run.failed(FlashError::new(ExitCode::Lost, FailureKind::DidNotReturn, BoardState::Written, what))
    };
    let product = run.device.usb.as_ref().and_then(|usb| usb.product.as_deref());
    let prime = product.is_some_and(katapult::needs_priming);
    let katapult = Katapult::connect(link, run.host.clock(), prime);
    let start = match &katapult {
        Ok(katapult) => katapult.info().app_start,
        Err(error) => {
            let what = format!("written and verified, but Katapult does not answer at {}: {error}", run.device.place);
            return Err(lost(run, what));
        }
    };
    if start != Some(app_start) {
        let says = start.map_or("no address".to_owned(), |start| start.to_string());
        let what = format!(
            "written and verified, but Katapult at {} starts applications at {says} and not at {app_start}",
            run.device.place
        );
        return Err(lost(run, what));
    }
    Ok(Check { name, verdict: Verdict::Agrees, evidence: format!("Katapult says {app_start}") })
}

/// Resets the application, waits until it is back, and proves that it was reset: on USB by its enumeration, on a UART by
/// its uptime.
fn prove_boot_path<'a>(run: &mut Run<'a>, mut client: Client<'a>, by_hand: bool) -> Result<Check, FlashError> {
    let check = |verdict, evidence: String| Check {
        name: "resident bootloader starts the application".into(),
        verdict,
        evidence,
    };
    for left in (0..RESETS).rev() {
        let before = if run.uart.is_some() { uptime(run, &mut client)? } else { None };
        let sent = run.host.clock().now();
        let reset = client.reset();
        drop(client);
        if let Err(error) = reset {
            run.warn(format!("the reset was not acknowledged: {error}"));
        }
        let mut returned = await_klipper(run, Start::ByReset);
        if returned.is_err() && by_hand && run.device.mode == Mode::Dfu {
            release_boot0(run)?;
            returned = await_klipper(run, Start::ByReset);
        }
        returned?;
        if !run.has_node() {
            let evidence = "it came back by itself after a reset, as a node that is not in this container";
            return Ok(check(Verdict::Agrees, evidence.into()));
        }
        (client, _) = ask_image(run)?;
        if run.uart.is_none() {
            return Ok(check(Verdict::Agrees, "it came back by itself after a reset".into()));
        }

        // Taken before the question: however late the answer comes, firmware that was not reset is older than this.
        let since = run.host.clock().now().saturating_sub(sent);
        let (Some(before), Some(after)) = (before, uptime(run, &mut client)?) else {
            let evidence = "it answers after a reset was sent, but has no get_uptime that tells whether it was reset";
            return Ok(check(Verdict::NotProvable, evidence.into()));
        };
        let ages = format!("up for {} ms, {} ms after the reset was sent", after.as_millis(), since.as_millis());
        if was_reset(before, since, after) {
            return Ok(check(Verdict::Agrees, format!("it came back by itself after a reset: {ages}")));
        }
        if left > 0 {
            run.warn(format!("it was not reset ({ages}): sending the reset again"));
        }
    }
    Err(not_proven(run))
}

/// Whether firmware that was up for `before` when a reset was sent, `since` ago, and is up for `after` now was reset.
///
/// If it was not, it is up for `before + since`, else for `since` at most. The middle leaves room for a clock that is a
/// few per cent off, as RC oscillators are.
fn was_reset(before: Duration, since: Duration, after: Duration) -> bool {
    after < since.saturating_add(before / 2)
}

/// How long the firmware has been up; `None` where it cannot tell.
fn uptime(run: &Run<'_>, client: &mut Client<'_>) -> Result<Option<Duration>, FlashError> {
    match client.uptime() {
        Ok(uptime) => Ok(Some(uptime)),
        Err(KlipperError::Missing { .. }) => Ok(None),
        Err(error) => Err(no_answer(run, &error)),
    }
}

fn not_proven(run: &Run<'_>) -> FlashError {
    let message = format!(
        "written, verified and seen running, but the device at {} was not reset by {RESETS} resets sent: that the resident \
         bootloader starts the application could not be proven",
        run.place()
    );
    run.failed(FlashError::new(ExitCode::Lost, FailureKind::DidNotReturn, BoardState::Written, message))
}

/// BOOT0 is still set, so that the boot path cannot be proven: asks the person to release it.
fn release_boot0(run: &mut Run<'_>) -> Result<(), FlashError> {
    let undo = run.request.profile.hands.boot0_undo.clone();
    let empty_check = run.request.chip.rom_dfu.as_ref().is_some_and(|rom| rom.empty_check);
    let instruction = if empty_check {
        // A chip that was blank when it was switched on starts its ROM at every reset until it is switched on again.
        let undo = undo.map_or_else(String::new, |undo| format!("{undo}; then "));
        format!("{undo}switch the board off and on")
    } else {
        undo.unwrap_or_else(|| "release BOOT0 and reset the board".into())
    };
    if run.hands {
        run.emit(Event::HandsNeeded { instruction: instruction.clone(), wait_s: HANDS_LIMIT.as_secs() });
        let place = run.place().clone();
        let runs = |device: &Device| device.mode == Mode::Klipper;
        let waited = follow::wait_for(run.host, &place, HANDS_LIMIT, Some(run.interrupt), runs);
        if matches!(waited, Ok(Waited::Found(_))) {
            return Ok(());
        }
    }
    let why = if empty_check { "BOOT0 is still set, or the chip was blank at power-on" } else { "BOOT0 is still set" };
    let message = format!("written, verified and seen running, but {why}: that it starts by itself is not proven");
    Err(run.failed(FlashError::new(
        ExitCode::Enter,
        FailureKind::HandsNeeded { instruction },
        BoardState::Written,
        message,
    )))
}

/// What started the application.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    ByBootloader,
    ByReset,
    /// An earlier phase.
    Earlier,
}

/// Asks the application that is back what it is, which has to be the image.
fn ask_image<'a>(run: &mut Run<'a>) -> Result<(Client<'a>, Dictionary), FlashError> {
    let baud = run.image_baud();
    let link = open(run, baud)?;
    let client = Client::connect(link, run.host.clock(), ANSWER_LIMIT).map_err(|error| no_answer(run, &error))?;
    let dictionary = client.dictionary().clone();
    match &run.request.image.dictionary {
        Some(wanted) if wanted.sha256 == dictionary.sha256 => Ok((client, dictionary)),
        _ => Err(runs_something_else(run, &dictionary)),
    }
}

fn runs_something_else(run: &Run<'_>, dictionary: &Dictionary) -> FlashError {
    let message = format!(
        "written and verified, but the device at {} runs {} {}",
        run.device.place,
        dictionary.app.escape_debug(),
        dictionary.version.escape_debug()
    );
    run.failed(FlashError::new(ExitCode::Lost, FailureKind::RunsSomethingElse, BoardState::Written, message))
}

fn no_answer(run: &Run<'_>, error: &KlipperError) -> FlashError {
    let message = format!("written and verified, but no Klipper answers at {}: {error}", run.place());
    run.failed(FlashError::new(ExitCode::Lost, FailureKind::DidNotReturn, BoardState::Written, message))
}

/// Waits until Klipper has enumerated anew on the device's port; on a UART, nothing tells.
fn await_klipper(run: &mut Run<'_>, start: Start) -> Result<(), FlashError> {
    if run.uart.is_some() {
        run.host.clock().sleep(UART_RESET);
        return Ok(());
    }
    let before = follow::enumeration(&run.device);
    let place = run.place().clone();
    let settled = |device: &Device| {
        (start == Start::Earlier || follow::enumeration(device) != before)
            && (device.mode == Mode::Klipper || (start == Start::ByReset && device.mode == Mode::Dfu))
    };
    let waited = follow::wait_for(run.host, &place, RETURN_LIMIT, None, settled);
    match waited.map_err(|error| not_back(run, &error.to_string()))? {
        Waited::Found(device) if device.mode == Mode::Klipper => {
            run.device = *device;
            Ok(())
        }
        Waited::Found(device) | Waited::TimedOut(Some(device)) => {
            let what = match device.mode {
                Mode::Katapult => "Katapult is there instead: it does not take the application for valid",
                Mode::Dfu => "the ROM bootloader is there instead: nothing starts the application, or BOOT0 is set",
                Mode::Klipper => "it did not reset",
                _ => "something else is there instead",
            };
            run.device = *device;
            Err(not_back(run, what))
        }
        Waited::TimedOut(None) | Waited::Interrupted => {
            let what = format!("nothing came back to {place} within {} s{}", RETURN_LIMIT.as_secs(), elsewhere(run));
            Err(not_back(run, &what))
        }
    }
}

fn not_back(run: &Run<'_>, what: &str) -> FlashError {
    let message = format!("written and verified, but the application did not return: {what}");
    run.failed(FlashError::new(ExitCode::Lost, FailureKind::DidNotReturn, BoardState::Written, message))
}

/// Opens the returned port. What holds it longer than udev's helpers do has taken it.
fn open(run: &mut Run<'_>, baud: u32) -> Result<Box<dyn crate::link::ByteLink>, FlashError> {
    let deadline = run.host.clock().now() + NODE_LIMIT;
    loop {
        let error = match run.open_serial(baud) {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        if run.host.clock().now() >= deadline {
            return Err(run.failed(cannot_confirm(run, &error)));
        }
        run.host.clock().sleep(NODE_POLL);
        if let Ok(Some(device)) = follow::at(run.host, run.place()) {
            run.device = device;
        }
    }
}

fn cannot_confirm(run: &Run<'_>, error: &LinkError) -> FlashError {
    let board = BoardState::Written;
    let node = match error {
        LinkError::Busy { node } => node,
        LinkError::Denied { node } => {
            let message =
                format!("written and verified, but permission is denied on {node}: what runs cannot be asked");
            return FlashError::new(
                ExitCode::Taken,
                FailureKind::PermissionDenied { node: node.clone() },
                board,
                message,
            );
        }
        error => {
            let message = format!("written and verified, but the device at {} cannot be opened: {error}", run.place());
            return FlashError::new(ExitCode::Lost, FailureKind::DidNotReturn, board, message);
        }
    };
    let by = match run.host.holders(&run.device) {
        Holders::Seen { processes, .. } => {
            processes.first().map(|holder| format!("{} (pid {})", holder.name.escape_debug(), holder.pid))
        }
        Holders::Unknown => None,
    };
    let by = by.unwrap_or_else(|| "another process".into());
    let message = format!("written and verified, but {node} was taken by {by} before it could be asked what runs");
    FlashError::new(ExitCode::Taken, FailureKind::Taken, board, message)
}
