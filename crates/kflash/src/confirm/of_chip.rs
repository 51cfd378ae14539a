//! Confirming what a debug probe has written: the chip is known by its unique id, wherever its own cable is plugged in.

use super::{
    ANSWER_LIMIT, Confirmed, NODE_POLL, RETURN_LIMIT, katapult_answers, no_answer, not_back, open, runs_something_else,
};
use crate::addr::FlashAddr;
use crate::board::Cable;
use crate::discover::{Device, Mode};
use crate::event::{Check, Phase, Verdict};
use crate::exit::ExitCode;
use crate::flash::{BoardState, FailureKind, FlashError, Run};
use crate::identify;
use crate::plan::cable_of;
use crate::query;

/// Waits for the application of the chip with this unique id, wherever it is plugged in, and compares its dictionary with
/// the image's. The chip was started by a reset, so that its boot path needs no further proof.
pub(crate) fn application(run: &mut Run<'_>, uid: Option<[u32; 3]>) -> Result<Confirmed, FlashError> {
    run.begin(Phase::Confirm, "waiting for the application on the board's own cable");
    await_chip(run, uid, |mode| mode == Mode::Klipper)?;
    let link = open(run, run.image_baud())?;
    let (_, running) =
        query::ask(link, run.host.clock(), &run.request.chip, ANSWER_LIMIT).map_err(|error| no_answer(run, &error))?;
    if run.request.image.dictionary.as_ref().is_none_or(|wanted| wanted.sha256 != running.dictionary.sha256) {
        return Err(runs_something_else(run, &running.dictionary));
    }
    let name = "what answers is the chip at the probe".to_owned();
    let check = match (uid, running.uid) {
        (Some(probe), Some(cable)) if probe == cable => {
            let evidence = format!("chip id {} there and here", serial_of(probe));
            Check { name, verdict: Verdict::Agrees, evidence }
        }
        (Some(probe), Some(cable)) => {
            let message = format!(
                "written and verified, but the chip at {} has the id {} and not {}: another board answers",
                run.device.place,
                serial_of(cable),
                serial_of(probe)
            );
            let kind = FailureKind::RunsSomethingElse;
            return Err(run.failed(FlashError::new(ExitCode::Lost, kind, BoardState::Written, message)));
        }
        _ => Check { name, verdict: Verdict::NotProvable, evidence: "its firmware does not tell the chip id".into() },
    };
    Ok(Confirmed { dictionary: running.dictionary, checks: vec![check] })
}

/// Waits for Katapult, or what it starts, on the chip with this unique id.
pub(crate) fn katapult(run: &mut Run<'_>, uid: Option<[u32; 3]>, app_start: FlashAddr) -> Result<Check, FlashError> {
    run.begin(Phase::Confirm, "waiting for Katapult on the board's own cable");
    await_chip(run, uid, |mode| matches!(mode, Mode::Klipper | Mode::Katapult))?;
    katapult_answers(run, app_start)
}

/// Waits for a device that is the chip with this id by its serial number, or that the person named, in a `wanted` mode.
fn await_chip(run: &mut Run<'_>, uid: Option<[u32; 3]>, wanted: impl Fn(Mode) -> bool) -> Result<(), FlashError> {
    let serial = uid.map(serial_of);
    let clock = run.host.clock();
    let deadline = clock.now() + RETURN_LIMIT;
    let selectors = &run.request.selectors;
    loop {
        let scan = run.host.scan().map_err(|error| not_back(run, &error.to_string()))?;
        let found = if selectors.is_empty() {
            let shows = |device: &&Device| {
                let shown = device.usb.as_ref().and_then(|usb| usb.serial.as_deref());
                serial.is_some() && shown == serial.as_deref()
            };
            scan.devices.iter().find(|device| wanted(device.mode) && shows(device)).cloned()
        } else {
            let named = identify::select(&scan, selectors, &run.request.profile, &run.request.chip);
            // What is behind a UART shows no mode.
            named.ok().map(|(device, _)| device).filter(|device| wanted(device.mode) || cable_of(device) == Cable::Uart)
        };
        if let Some(device) = found {
            run.device = device;
            return Ok(());
        }
        if clock.now() >= deadline {
            let named: Vec<_> = selectors.iter().map(ToString::to_string).collect();
            let what = match (&*named, serial) {
                ([], Some(serial)) => format!("a device with serial number {serial}"),
                ([], None) => "a device".into(),
                (named, _) => named.join(" and "),
            };
            let what = format!("{what} did not come to this host within {} s", RETURN_LIMIT.as_secs());
            return Err(not_back(run, &what));
        }
        clock.sleep(NODE_POLL);
    }
}

/// A unique id as Klipper and Katapult show it on USB: its bytes in hex.
fn serial_of(uid: [u32; 3]) -> String {
    let [first, second, third] = uid.map(u32::swap_bytes);
    format!("{first:08X}{second:08X}{third:08X}")
}
