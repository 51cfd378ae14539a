//! Debug probes: which there are, and which one is meant.

use std::fmt;
use std::str::FromStr;

use probe_rs::probe::list::Accessibility;
use probe_rs::probe::{DebugProbeInfo, ProbeFactory, cmsisdap, jlink, stlink};
use serde::Serialize;

use super::SwdError;
use crate::discover::UsbId;

/// The drivers of probe-rs that kflash uses. Others take any serial port or any FTDI chip for a probe.
static DRIVERS: [&dyn ProbeFactory; 3] = [&cmsisdap::CmsisDapFactory, &stlink::StLinkFactory, &jlink::JLinkFactory];

/// Where probes are looked for.
#[derive(Clone, Debug)]
pub struct Probes {
    drivers: Vec<&'static dyn ProbeFactory>,
}

/// A debug probe that is plugged in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// Its name, as USB shows it.
    pub name: String,
    /// Its kind: `CMSIS-DAP`, `ST-LINK`, `J-Link`.
    pub kind: String,
    /// Its USB id.
    pub usb: UsbId,
    /// Its serial number.
    pub serial: Option<String>,
    /// Whether its node may be opened.
    pub accessible: bool,
    #[serde(skip)]
    info: DebugProbeInfo,
}

/// Which probe is meant: `VID:PID` or `VID:PID:SERIAL`, or `:SERIAL` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSelector {
    usb: Option<UsbId>,
    serial: Option<String>,
}

/// A text that names no probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no probe: VID:PID, VID:PID:SERIAL or :SERIAL is wanted, such as 2e8a:000c:E6633861")]
pub struct ParseSelectorError(String);

impl FromStr for ProbeSelector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseSelectorError(text.to_owned());
        if let Some(serial) = text.strip_prefix(':').filter(|serial| !serial.is_empty()) {
            return Ok(Self { usb: None, serial: Some(serial.to_owned()) });
        }
        // A serial number may hold colons itself.
        let mut parts = text.splitn(3, ':');
        let (Some(vendor), Some(product)) = (parts.next(), parts.next()) else { return Err(wrong()) };
        let usb = format!("{vendor}:{product}").parse().map_err(|_| wrong())?;
        let serial = parts.next().map(str::to_owned);
        if serial.as_ref().is_some_and(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self { usb: Some(usb), serial })
    }
}

impl ProbeSelector {
    fn matches(&self, probe: &Probe) -> bool {
        self.usb.is_none_or(|usb| usb == probe.usb)
            && self.serial.as_ref().is_none_or(|serial| probe.serial.as_ref() == Some(serial))
    }
}

impl fmt::Display for ProbeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(usb) = self.usb {
            write!(f, "{usb}")?;
        }
        self.serial.iter().try_for_each(|serial| write!(f, ":{}", serial.escape_debug()))
    }
}

impl fmt::Display for Probe {
    /// As `--probe` takes it, with its name: `2e8a:000c:E6633861 (Debug Probe)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.selector(), self.name.escape_debug())
    }
}

impl Probes {
    /// The probes on this machine's USB.
    pub fn usb() -> Self {
        Self { drivers: DRIVERS.to_vec() }
    }

    /// Those of other drivers: a simulator's.
    pub fn of(drivers: Vec<&'static dyn ProbeFactory>) -> Self {
        Self { drivers }
    }

    /// Every probe that is plugged in, those that may not be opened among them.
    pub fn list(&self) -> Vec<Probe> {
        let found = self.drivers.iter().flat_map(|driver| driver.list_probes());
        let probes = found.map(|item| Probe {
            name: item.info.identifier.clone(),
            kind: item.info.probe_type(),
            usb: UsbId { vendor: item.info.vendor_id, product: item.info.product_id },
            serial: item.info.serial_number.clone(),
            accessible: item.accessibility == Accessibility::Accessible,
            info: item.info,
        });
        let mut probes: Vec<_> = probes.collect();
        // A composite probe shows an interface of each version of CMSIS-DAP; it is one probe all the same.
        probes.sort_by_key(|probe| (probe.usb, probe.serial.clone(), probe.info.is_hid_interface));
        probes.dedup_by(|later, first| {
            later.usb == first.usb && later.serial == first.serial && later.info.is_hid_interface
        });
        probes
    }

    /// The one probe that is meant.
    pub fn select(&self, selector: Option<&ProbeSelector>) -> Result<Probe, SwdError> {
        let mut probes = self.list();
        probes.retain(|probe| selector.is_none_or(|selector| selector.matches(probe)));
        if probes.len() > 1 {
            return Err(SwdError::SeveralProbes { probes: probes.iter().map(Probe::to_string).collect() });
        }
        let probe = probes.pop().ok_or_else(|| SwdError::NoProbe { wanted: selector.map(ToString::to_string) })?;
        if !probe.accessible {
            return Err(SwdError::Denied { probe: probe.to_string() });
        }
        Ok(probe)
    }
}

impl Probe {
    /// What its driver was run with, in words. None has met a real chip yet.
    pub fn tried_on(&self) -> &'static str {
        if self.kind == "CMSIS-DAP" { "the simulator" } else { "nothing yet" }
    }

    /// What names this probe.
    pub fn selector(&self) -> ProbeSelector {
        ProbeSelector { usb: Some(self.usb), serial: self.serial.clone() }
    }

    pub(super) fn open(&self) -> Result<probe_rs::probe::Probe, SwdError> {
        let failed = |error: &probe_rs::probe::DebugProbeError| SwdError::CannotOpen {
            probe: self.to_string(),
            why: super::translate::text(error),
        };
        let mut probe = self.info.open().map_err(|error| failed(&error))?;
        probe.select_protocol(probe_rs::probe::WireProtocol::Swd).map_err(|error| failed(&error))?;
        Ok(probe)
    }
}
