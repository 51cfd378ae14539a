//! `--via swd`: the way through a debug probe.

mod found;

use clap::ValueEnum;
use kflash::board::Profile;
use kflash::chip::Chip;
use kflash::clock::Clock;
use kflash::event::Events;
use kflash::flash::{FlashError, Flasher, Report, Request, Through};
use kflash::plan::Parts;
use kflash::proto::swd::{ProbeSelector, Probes, Seen};

use self::found::Behind;
pub use self::found::{FoundProbe, text};

/// The probes that are plugged in; with `query`, the chip behind each of them.
pub fn list(known: &[(Profile, Chip)], query: bool, clock: &dyn Clock) -> Vec<FoundProbe> {
    let mut chips: Vec<Chip> = Vec::new();
    for (_, chip) in known {
        if chips.iter().all(|known| known.id != chip.id) {
            chips.push(chip.clone());
        }
    }
    let probes = Probes::usb();
    let found = probes.list().into_iter().map(|probe| FoundProbe {
        selector: probe.selector().to_string(),
        name: probe.name.clone(),
        kind: probe.kind.clone(),
        accessible: probe.accessible,
        chip: (query && probe.accessible).then(|| match probes.see(&probe, &chips, clock) {
            Ok(seen) => Behind::Chip {
                what: words(&seen),
                may_be: seen.chips.clone(),
                read_protected: seen.read_protected.clone(),
            },
            Err(error) => Behind::Unknown { error: error.to_string() },
        }),
    });
    found.collect()
}

fn words(seen: &Seen) -> String {
    let idcode = seen.idcode.map(|idcode| format!("DBGMCU_IDCODE {idcode:08x}"));
    let size = seen.flash_kib.map(|size| format!("{size} KiB of flash"));
    [Some(seen.core.clone()), idcode, size].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// A debug probe on the chip's SWD pins
    Swd,
}

/// Whether to go through a debug probe, and which.
#[derive(clap::Args, Debug)]
pub struct ProbeArgs {
    /// The way to the chip: "swd" is a debug probe on its SWD pins. CMSIS-DAP v2, ST-Link v2 and v3, J-Link
    #[arg(long, value_name = "WAY", conflicts_with_all = ["printer", "all", "trace"])]
    #[cfg_attr(feature = "sim", arg(conflicts_with = "simulate"))]
    via: Option<Via>,
    /// Which debug probe, where several are plugged in; `kflash detect` lists them
    #[arg(long, value_name = "VID:PID:SERIAL", requires = "via")]
    probe: Option<ProbeSelector>,
    /// Lift the chip's read protection, which ERASES ALL OF IT, bootloader included
    #[arg(long, requires = "via")]
    unlock: bool,
}

impl ProbeArgs {
    /// Flashes through a probe, if that is asked for.
    pub fn flash(
        &self,
        flasher: &Flasher<'_>,
        request: &Request,
        events: Events<'_>,
    ) -> Option<Result<Report, FlashError>> {
        let Via::Swd = self.via?;
        let probes = Probes::usb();
        let through = Through { probes: &probes, probe: self.probe.as_ref(), unlock: self.unlock };
        Some(flasher.flash_through(request, &through, events))
    }
}

/// Which debug probe installs a bootloader.
#[derive(clap::Args, Debug)]
pub struct Installer {
    /// Which debug probe, where several are plugged in; `kflash detect` lists them
    #[arg(long, value_name = "VID:PID:SERIAL")]
    pub probe: Option<ProbeSelector>,
    /// Lift the chip's read protection, which ERASES ALL OF IT
    #[arg(long)]
    unlock: bool,
}

impl Installer {
    /// Installs it.
    pub fn install(
        &self,
        flasher: &Flasher<'_>,
        request: &Request,
        parts: &Parts<'_>,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        let probes = Probes::usb();
        let through = Through { probes: &probes, probe: self.probe.as_ref(), unlock: self.unlock };
        flasher.install_through(request, parts, &through, events)
    }
}
