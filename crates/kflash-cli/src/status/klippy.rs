//! What klippy read of a board whose port it has, as Moonraker tells.

use std::path::PathBuf;

use kflash::discover::Device;
use kflash::flash::Heard;
use kflash::host::Host;
use kflash::identify::Selector;
use kflash::moonraker::{Client, Mcu};

use super::row::Runs;
use super::target::Target;

/// What klippy read, or why nothing is known of it.
pub type Klippy = Result<Runs, String>;

/// What the printer's Klipper read of a device that is left alone; `None` where no Moonraker is configured.
pub fn klippy_of(host: &dyn Host, target: &Target<'_>, heard: &Heard) -> Option<Klippy> {
    let (printer, _) = target.configured?;
    let found = Client::new(printer.moonraker.as_ref()?).and_then(|client| client.micro_controllers());
    let mcus = match found {
        Ok(mcus) => mcus,
        Err(error) => return Some(Err(error.to_string())),
    };
    Some(match of_device(host, &mcus, target, heard) {
        Some(Mcu { version: Some(version), mcu, .. }) => {
            Ok(Runs { app: None, version: version.clone(), mcu: mcu.clone(), dictionary_sha256: None })
        }
        Some(mcu) => Err(format!("Klipper did not get through to [{}]", mcu.section)),
        None => Err("which of Klipper's micro-controllers it is is not known".into()),
    })
}

/// The micro-controller at the device's node; else the only one that has the board's MCU and not another device's node.
fn of_device<'m>(host: &dyn Host, mcus: &'m [Mcu], target: &Target<'_>, heard: &Heard) -> Option<&'m Mcu> {
    let device = heard.device.as_ref()?;
    let named = target.selectors.iter().filter_map(|selector| match selector {
        Selector::Tty(path) => Some(path),
        _ => None,
    });
    let nodes: Vec<_> = named.chain(nodes_of(device)).collect();
    let at = |mcu: &Mcu, nodes: &[&PathBuf]| mcu.serial.as_ref().is_some_and(|it| nodes.contains(&&PathBuf::from(it)));
    if let Some(mcu) = mcus.iter().find(|mcu| at(mcu, &nodes)) {
        return Some(mcu);
    }
    let scan = host.scan().ok()?;
    let others: Vec<_> = scan.devices.iter().filter(|other| *other != device).flat_map(nodes_of).collect();
    let is_it = |mcu: &&Mcu| mcu.mcu.as_deref().is_some_and(|name| target.chip.is(name)) && !at(mcu, &others);
    let mut alike = mcus.iter().filter(is_it);
    alike.next().filter(|_| alike.next().is_none())
}

/// What a device's tty is called.
fn nodes_of(device: &Device) -> impl Iterator<Item = &PathBuf> {
    device.tty.iter().flat_map(|tty| [&tty.node].into_iter().chain(&tty.by_id))
}
