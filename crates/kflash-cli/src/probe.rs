//! `--via swd`: the way through a debug probe.

mod found;

use clap::ValueEnum;
use kflash::board::{Profile, Route};
use kflash::chip::Chip;
use kflash::clock::Clock;
use kflash::event::Events;
use kflash::flash::{FlashError, Flasher, Report, Request, Through, Wanted};
use kflash::plan::{Parts, Plan};
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
        tried_on: probe.tried_on(),
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
    #[arg(long, value_name = "WAY", conflicts_with_all = ["printer", "all"])]
    via: Option<Via>,
    /// Which debug probe, where several are plugged in; `kflash detect` lists them
    #[arg(long, value_name = "VID:PID:SERIAL", requires = "via")]
    probe: Option<ProbeSelector>,
}

/// The same for a verb that erases.
#[derive(clap::Args, Debug)]
pub struct ErasingProbeArgs {
    #[command(flatten)]
    probe: ProbeArgs,
    /// Lift the chip's read protection, which ERASES ALL OF IT, bootloader included
    #[arg(long, requires = "via")]
    unlock: bool,
}

impl ProbeArgs {
    /// The probe, if one is asked for.
    pub fn asked(&self) -> Option<ByProbe> {
        let Via::Swd = self.via?;
        Some(ByProbe { probe: self.probe.clone(), unlock: false })
    }
}

impl ErasingProbeArgs {
    /// The probe, if one is asked for.
    pub fn asked(&self) -> Option<ByProbe> {
        Some(ByProbe { unlock: self.unlock, ..self.probe.asked()? })
    }
}

/// The way through a debug probe.
#[derive(Debug)]
pub struct ByProbe {
    probe: Option<ProbeSelector>,
    unlock: bool,
}

impl ByProbe {
    /// The route of the board that fits what the chip holds.
    pub fn route(&self, flasher: &Flasher<'_>, wanted: &Wanted<'_>, events: Events<'_>) -> Result<Route, FlashError> {
        self.through(|through| Ok(flasher.route_through(wanted, through, events)?.0))
    }

    /// What flashing would do.
    pub fn plan(&self, flasher: &Flasher<'_>, request: &Request, events: Events<'_>) -> Result<Plan, FlashError> {
        self.through(|through| flasher.plan_through(request, through, events))
    }

    /// Flashes.
    pub fn flash(&self, flasher: &Flasher<'_>, request: &Request, events: Events<'_>) -> Result<Report, FlashError> {
        self.through(|through| flasher.flash_through(request, through, events))
    }

    /// Compares every byte; with `may_reset` also of a chip that answers only out of a reset.
    pub fn verify(
        &self,
        flasher: &Flasher<'_>,
        request: &Request,
        may_reset: bool,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        self.through(|through| flasher.verify_through(request, may_reset, through, events))
    }

    /// Installs a bootloader.
    pub fn install(
        &self,
        flasher: &Flasher<'_>,
        request: &Request,
        parts: &Parts<'_>,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        self.through(|through| flasher.install_through(request, parts, through, events))
    }

    fn through<T>(&self, act: impl FnOnce(&Through<'_>) -> T) -> T {
        let probes = Probes::usb();
        act(&Through { probes: &probes, probe: self.probe.as_ref(), unlock: self.unlock })
    }
}

/// Which debug probe installs a bootloader.
#[derive(clap::Args, Debug)]
pub struct Installer {
    /// Which debug probe, where several are plugged in; `kflash detect` lists them
    #[arg(long, value_name = "VID:PID:SERIAL")]
    probe: Option<ProbeSelector>,
    /// Lift the chip's read protection, which ERASES ALL OF IT
    #[arg(long)]
    unlock: bool,
}

impl Installer {
    /// Whether anything is said of a probe.
    pub fn is_named(&self) -> bool {
        self.probe.is_some() || self.unlock
    }

    /// The probe.
    pub fn asked(&self) -> ByProbe {
        ByProbe { probe: self.probe.clone(), unlock: self.unlock }
    }
}
