//! Stage 7: is the board back, and does it run the image?

use std::time::Duration;

use crate::board::BootloaderKind;
use crate::discover::{Device, Mode};
use crate::enter::{HANDS_LIMIT, elsewhere};
use crate::event::{Check, Event, Phase, Verdict};
use crate::exit::ExitCode;
use crate::flash::{BoardState, FailureKind, FlashError, Run};
use crate::follow::{self, Waited};
use crate::host::Holders;
use crate::klipper::client::Client;
use crate::klipper::dictionary::Dictionary;
use crate::link::LinkError;
use crate::plan::Plan;

/// How long a started application may take to enumerate.
const RETURN_LIMIT: Duration = Duration::from_secs(20);
/// How long udev and its helpers may keep a returned port.
const NODE_LIMIT: Duration = Duration::from_secs(5);
const NODE_POLL: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Klipper resets some milliseconds after it acknowledged; on a UART nothing else tells that it did.
const UART_RESET: Duration = Duration::from_millis(500);

/// What runs now.
pub(crate) struct Confirmed {
    pub dictionary: Dictionary,
    pub checks: Vec<Check>,
}

/// Waits for the application, compares its dictionary with the image's and, behind a resident bootloader, once more after
/// a reset. `by_hand`: BOOT0 may still be set.
pub(crate) fn confirm(run: &mut Run<'_>, plan: &Plan, by_hand: bool) -> Result<Confirmed, FlashError> {
    run.begin(Phase::Confirm, format!("waiting for the application at {}", run.place()));
    let (client, dictionary) = await_image(run, Start::ByBootloader)?;
    let mut checks = Vec::new();
    if plan.bootloader == BootloaderKind::None {
        if let (true, Some(undo)) = (by_hand, &run.request.profile.hands.boot0_undo) {
            run.note(format!("if BOOT0 was set by hand: {undo}"));
        }
        return Ok(Confirmed { dictionary, checks });
    }

    run.begin(Phase::Confirm, "resetting it once more: does the resident bootloader start it?");
    let mut client = client;
    let reset = client.reset();
    drop(client);
    if let Err(error) = reset {
        run.warn(format!("the reset was not acknowledged: {error}"));
    }
    let mut returned = await_image(run, Start::ByReset);
    if returned.is_err() && by_hand && run.device.mode == Mode::Dfu {
        release_boot0(run)?;
        returned = await_image(run, Start::ByReset);
    }
    returned?;
    checks.push(Check {
        name: "resident bootloader starts the application".into(),
        verdict: Verdict::Agrees,
        evidence: "it came back by itself after a reset".into(),
    });
    Ok(Confirmed { dictionary, checks })
}

/// BOOT0 is still set, so that the boot path cannot be proven: asks the person to release it.
fn release_boot0(run: &mut Run<'_>) -> Result<(), FlashError> {
    let undo = run.request.profile.hands.boot0_undo.clone();
    let instruction = undo.unwrap_or_else(|| "release BOOT0 and reset the board".into());
    if run.hands {
        run.emit(Event::HandsNeeded { instruction: instruction.clone(), wait_s: HANDS_LIMIT.as_secs() });
        let place = run.place().clone();
        let runs = |device: &Device| device.mode == Mode::Klipper;
        let waited = follow::wait_for(run.host, &place, HANDS_LIMIT, Some(run.interrupt), runs);
        if matches!(waited, Ok(Waited::Found(_))) {
            return Ok(());
        }
    }
    let message = "written, verified and seen running, but BOOT0 is still set: that it starts by itself is not proven";
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
}

fn await_image<'a>(run: &mut Run<'a>, start: Start) -> Result<(Client<'a>, Dictionary), FlashError> {
    if run.uart.is_none() {
        await_klipper(run, start)?;
    } else {
        run.host.clock().sleep(UART_RESET);
    }
    let baud = run.image_baud();
    let link = open(run, baud)?;
    let client = Client::connect(link, run.host.clock(), ANSWER_LIMIT).map_err(|error| {
        let message = format!("written and verified, but no Klipper answers at {}: {error}", run.place());
        run.failed(FlashError::new(ExitCode::Lost, FailureKind::DidNotReturn, BoardState::Written, message))
    })?;
    let dictionary = client.dictionary().clone();
    match &run.request.image.dictionary {
        Some(wanted) if wanted.sha256 == dictionary.sha256 => Ok((client, dictionary)),
        _ => {
            let message = format!(
                "written and verified, but the device at {} runs {} {}",
                run.place(),
                dictionary.app.escape_debug(),
                dictionary.version.escape_debug()
            );
            Err(run.failed(FlashError::new(
                ExitCode::Lost,
                FailureKind::RunsSomethingElse,
                BoardState::Written,
                message,
            )))
        }
    }
}

/// Waits until Klipper has enumerated anew on the device's port.
fn await_klipper(run: &mut Run<'_>, start: Start) -> Result<(), FlashError> {
    let before = follow::enumeration(&run.device);
    let place = run.place().clone();
    let settled = |device: &Device| {
        follow::enumeration(device) != before
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
