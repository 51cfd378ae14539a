//! Asking a board what it runs, over its ordinary cable.

use std::time::Duration;

use kflash::addr::FlashAddr;
use kflash::discover::{Device, Mode, Place};
use kflash::host::{Holders, Host};
use kflash::klipper::client::{Client, KlipperError};
use kflash::klipper::dictionary::BuiltFor;
use kflash::link::ByteLink;
use kflash::proto::Bootloader;
use kflash::proto::katapult::{Katapult, needs_priming};
use serde::Serialize;

/// Which boards are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Query {
    /// Those whose port may be opened without resetting them
    Harmless,
    /// UARTs and network streams, too
    All,
}

/// What a board answered.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "runs", rename_all = "kebab-case")]
pub enum Answer {
    /// Klipper or Kalico.
    Klipper { app: String, version: String, mcu: Option<String>, built_for: BuiltFor, dictionary_sha256: String },
    /// Katapult.
    Katapult { version: Option<String>, mcu: Option<String>, app_start: Option<FlashAddr> },
    /// Nothing that kflash understands.
    Unknown { error: String },
    /// It was not asked.
    NotAsked { why: String },
}

/// The default of Klipper and of Katapult alike.
const BAUD: u32 = 250_000;
/// A board that was reset by opening its port needs a moment until it answers.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Asks `device`, unless that would disturb somebody. `harmless` is whether every board that may be behind its USB-UART
/// bridge is known not to be reset by opening the port.
pub fn ask(host: &dyn Host, device: &Device, holders: &Holders, query: Query, harmless: bool) -> Answer {
    if let Some(why) = left_alone(device, holders, query == Query::All || harmless) {
        return Answer::NotAsked { why };
    }
    match device.mode {
        Mode::Katapult => katapult(host, device).unwrap_or_else(|error| Answer::Unknown { error }),
        Mode::Klipper => klipper(host, device).unwrap_or_else(|error| Answer::Unknown { error: error.to_string() }),
        _ => match klipper(host, device) {
            // Something is there, or nothing can be: only silence and noise may be Katapult's.
            Err(KlipperError::Silent { .. } | KlipperError::NotKlipper { .. }) => {
                katapult(host, device).unwrap_or_else(|error| Answer::Unknown { error })
            }
            result => result.unwrap_or_else(|error| Answer::Unknown { error: error.to_string() }),
        },
    }
}

fn left_alone(device: &Device, holders: &Holders, may_reset: bool) -> Option<String> {
    if let Holders::Seen { processes, .. } = holders
        && !processes.is_empty()
    {
        return Some("somebody holds it open".to_owned());
    }
    match device.mode {
        Mode::Klipper | Mode::Katapult => None,
        Mode::Dfu | Mode::Rp2Boot => Some("a ROM bootloader runs no firmware".to_owned()),
        Mode::KlipperCanBridge => Some("CAN is not supported yet".to_owned()),
        Mode::Unknown | Mode::UartBridge if device.tty.is_none() && !matches!(device.place, Place::Tcp(_)) => {
            Some("it has no tty".to_owned())
        }
        Mode::Unknown | Mode::UartBridge if may_reset => None,
        Mode::Unknown | Mode::UartBridge => Some("opening it may reset the board; --query=all does".to_owned()),
    }
}

fn klipper(host: &dyn Host, device: &Device) -> Result<Answer, KlipperError> {
    let link = host.open_serial(device, BAUD)?;
    let client = Client::connect(link, host.clock(), FIRST_ANSWER)?;
    let dictionary = client.dictionary();
    Ok(Answer::Klipper {
        app: dictionary.app.clone(),
        version: dictionary.version.clone(),
        mcu: dictionary.mcu().map(str::to_owned),
        built_for: dictionary.built_for(),
        dictionary_sha256: dictionary.sha256.clone(),
    })
}

fn katapult(host: &dyn Host, device: &Device) -> Result<Answer, String> {
    let link: Box<dyn ByteLink> = host.open_serial(device, BAUD).map_err(|error| error.to_string())?;
    let prime = device.mcu.as_deref().is_some_and(needs_priming);
    let katapult = Katapult::connect(link, host.clock(), prime).map_err(|error| error.to_string())?;
    let info = katapult.info();
    Ok(Answer::Katapult { version: info.version.clone(), mcu: info.mcu.clone(), app_start: info.app_start })
}
