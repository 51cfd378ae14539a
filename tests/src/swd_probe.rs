//! Debug probes in process: the target model under probe-rs's own probe traits. No USB, no thread.
//!
//! A core cannot be sent between threads, and a probe must be: the probes lie on the desk of the thread that made them,
//! and what probe-rs holds is a number.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kflash::clock::Clock;
use kflash_sim::swd::{Port, Refused, Target};
use probe_rs::CoreStatus;
use probe_rs::architecture::arm::sequences::ArmDebugSequence;
use probe_rs::architecture::arm::{
    ArmCommunicationInterface, ArmDebugInterface, ArmError, DapError, DapProbe, RawDapAccess, RegisterAddress,
};
use probe_rs::probe::list::{Accessibility, ProbeListItem};
use probe_rs::probe::{
    DebugProbe, DebugProbeError, DebugProbeInfo, DebugProbeSelector, ProbeCreationError, ProbeFactory, WireProtocol,
};

/// The USB ids that the probes show.
pub const VENDOR: u16 = 0x1209;
/// The product's half.
pub const PRODUCT: u16 = 0xda43;

/// WAITs that the probe repeats a transfer for.
const RETRIES: u32 = 100;
/// nRESET among the pins of CMSIS-DAP's `DAP_SWJ_Pins`.
const NRESET: u32 = 1 << 7;

/// What is cut after some transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The probe is unplugged from the host.
    Probe,
    /// The wires between probe and chip come off.
    Wires,
    /// The board loses its supply.
    Power,
    /// The probe stops answering.
    Mute,
}

/// When something is cut, counted from the probe's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before this command of the host: a USB transfer.
    Command(u64),
    /// Before this transfer on the wires, which may be in the middle of a command.
    Transfer(u64),
}

/// A probe on the desk.
pub struct SimProbe {
    /// Its serial number.
    pub serial: String,
    /// Whether its node may be opened.
    pub accessible: bool,
    /// Whether something else holds it.
    pub held: bool,
    /// The chip at its wires.
    pub target: Target,
    /// Commands of the host so far.
    pub commands: u64,
    /// Transfers on the wires so far.
    pub transfers: u64,
    /// What is cut, and when.
    pub cut: Option<(When, Cut)>,
    /// Attaches so far.
    pub attaches: u64,
}

thread_local! {
    static DESK: RefCell<Vec<SimProbe>> = const { RefCell::new(Vec::new()) };
}

/// Puts a probe with a chip on this thread's desk; returns its number.
pub fn plug(serial: &str, target: Target) -> usize {
    DESK.with_borrow_mut(|desk| {
        desk.push(SimProbe {
            serial: serial.to_owned(),
            accessible: true,
            held: false,
            target,
            commands: 0,
            transfers: 0,
            cut: None,
            attaches: 0,
        });
        desk.len() - 1
    })
}

/// Takes every probe off this thread's desk.
pub fn clear() {
    DESK.with_borrow_mut(Vec::clear);
}

/// Does something with a probe of the desk.
///
/// # Panics
/// If there is no such probe.
pub fn with<T>(probe: usize, act: impl FnOnce(&mut SimProbe) -> T) -> T {
    DESK.with_borrow_mut(|desk| act(&mut desk[probe]))
}

/// A clock for a driver on this thread: what it waits passes at once, on the chips of the desk, too.
#[derive(Debug)]
pub struct DeskClock;

thread_local! {
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

impl Clock for DeskClock {
    fn now(&self) -> Duration {
        WAITED.get()
    }

    fn sleep(&self, duration: Duration) {
        WAITED.set(WAITED.get() + duration);
        DESK.with_borrow_mut(|desk| desk.iter_mut().for_each(|probe| probe.target.wait(duration)));
    }
}

/// The driver of the probes on the desk.
#[derive(Debug)]
pub struct SimDriver;

/// Its only one.
pub static DRIVER: SimDriver = SimDriver;

impl fmt::Display for SimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

impl ProbeFactory for SimDriver {
    fn open(&self, selector: &DebugProbeSelector) -> Result<Box<dyn DebugProbe>, DebugProbeError> {
        let found = DESK.with_borrow(|desk| {
            let wanted =
                |probe: &SimProbe| selector.serial_number.as_ref().is_none_or(|serial| *serial == probe.serial);
            desk.iter().position(|probe| wanted(probe) && probe.accessible && !probe.held && !probe.unplugged())
        });
        let number = found.ok_or(DebugProbeError::ProbeCouldNotBeCreated(ProbeCreationError::NotFound))?;
        Ok(Box::new(Opened { number, speed: 1000, protocol: None }))
    }

    fn list_probes(&self) -> Vec<ProbeListItem> {
        DESK.with_borrow(|desk| {
            let plugged = desk.iter().filter(|probe| !probe.unplugged());
            let items = plugged.map(|probe| ProbeListItem {
                info: DebugProbeInfo::new(
                    "simulated probe",
                    VENDOR,
                    PRODUCT,
                    Some(probe.serial.clone()),
                    &DRIVER,
                    None,
                    false,
                ),
                accessibility: if probe.accessible {
                    Accessibility::Accessible
                } else {
                    Accessibility::PermissionDenied
                },
            });
            items.collect()
        })
    }
}

impl SimProbe {
    /// The moment that is so much later than now.
    pub fn from_now(&self, when: When) -> When {
        match when {
            When::Command(commands) => When::Command(self.commands + commands),
            When::Transfer(transfers) => When::Transfer(self.transfers + transfers),
        }
    }

    fn reached(&self) -> Option<Cut> {
        let (when, cut) = self.cut?;
        let reached = match when {
            When::Command(command) => self.commands >= command,
            When::Transfer(transfer) => self.transfers >= transfer,
        };
        reached.then_some(cut)
    }

    fn unplugged(&self) -> bool {
        self.reached() == Some(Cut::Probe)
    }

    /// Whether the probe still serves the host; lets the chip go on for a while.
    fn command(&mut self) -> Result<(), DebugProbeError> {
        self.commands += 1;
        match self.reached() {
            Some(Cut::Probe) => return Err(DebugProbeError::Usb(io::ErrorKind::NotConnected.into())),
            Some(Cut::Mute) => return Err(DebugProbeError::Timeout),
            Some(Cut::Wires | Cut::Power) | None => {}
        }
        self.target.run().map_err(DebugProbeError::Other)
    }

    /// One transfer, repeated for as long as the chip says WAIT.
    fn transfer(&mut self, port: Port, addr: u8, write: Option<u32>) -> Result<u32, ArmError> {
        for _ in 0..RETRIES {
            self.transfers += 1;
            match self.reached() {
                Some(Cut::Power) => self.target.power(false).map_err(DebugProbeError::Other)?,
                Some(Cut::Wires) => return Err(DapError::NoAcknowledge.into()),
                Some(Cut::Probe | Cut::Mute) => self.command()?,
                None => {}
            }
            let answer = match write {
                Some(value) => self.target.write(port, addr, value).map(|()| 0),
                None => self.target.read(port, addr),
            };
            match answer {
                Ok(value) => return Ok(value),
                Err(Refused::Wait) => {}
                Err(Refused::Silence) => return Err(DapError::NoAcknowledge.into()),
                Err(Refused::Fault) => {
                    // As probe-rs's drivers do: the next transfer finds no error.
                    let _ = self.target.write(Port::Debug, 0, 1 << 2);
                    return Err(DapError::FaultResponse.into());
                }
            }
        }
        Err(DapError::WaitResponse.into())
    }

    /// Reads a register. Those of access ports are posted on the wire, and fetched from RDBUFF.
    fn read(&mut self, address: RegisterAddress, values: &mut [u32]) -> Result<(), ArmError> {
        self.command()?;
        let addr = address.a2_and_3();
        if !address.is_ap() {
            return values.iter_mut().try_for_each(|value| {
                *value = self.transfer(Port::Debug, addr, None)?;
                Ok(())
            });
        }
        self.transfer(Port::Access, addr, None)?;
        let last = values.len() - 1;
        for (index, value) in values.iter_mut().enumerate() {
            *value = if index == last {
                self.transfer(Port::Debug, 0xc, None)?
            } else {
                self.transfer(Port::Access, addr, None)?
            };
        }
        Ok(())
    }

    fn write(&mut self, address: RegisterAddress, values: &[u32]) -> Result<(), ArmError> {
        self.command()?;
        let port = if address.is_ap() { Port::Access } else { Port::Debug };
        values.iter().try_for_each(|value| self.transfer(port, address.a2_and_3(), Some(*value)).map(|_| ()))
    }
}

/// A probe that probe-rs has opened.
#[derive(Debug)]
struct Opened {
    number: usize,
    speed: u32,
    protocol: Option<WireProtocol>,
}

impl Opened {
    fn reset_line(&mut self, high: bool) -> Result<(), DebugProbeError> {
        with(self.number, |probe| {
            probe.command()?;
            probe.target.set_reset(high).map_err(DebugProbeError::Other)
        })
    }
}

impl DebugProbe for Opened {
    fn get_name(&self) -> &'static str {
        "simulated probe"
    }

    fn speed_khz(&self) -> u32 {
        self.speed
    }

    fn set_speed(&mut self, speed_khz: u32) -> Result<u32, DebugProbeError> {
        self.speed = speed_khz;
        Ok(speed_khz)
    }

    fn attach(&mut self) -> Result<(), DebugProbeError> {
        with(self.number, |probe| {
            probe.attaches += 1;
            probe.command()
        })
    }

    fn detach(&mut self) -> Result<(), probe_rs::Error> {
        Ok(())
    }

    fn target_reset(&mut self) -> Result<(), DebugProbeError> {
        self.reset_line(false)?;
        self.reset_line(true)
    }

    fn target_reset_assert(&mut self) -> Result<(), DebugProbeError> {
        self.reset_line(false)
    }

    fn target_reset_deassert(&mut self) -> Result<(), DebugProbeError> {
        self.reset_line(true)
    }

    fn select_protocol(&mut self, protocol: WireProtocol) -> Result<(), DebugProbeError> {
        self.protocol = Some(protocol);
        Ok(())
    }

    fn active_protocol(&self) -> Option<WireProtocol> {
        self.protocol
    }

    fn has_arm_interface(&self) -> bool {
        true
    }

    fn try_get_arm_debug_interface<'probe>(
        self: Box<Self>,
        sequence: Arc<dyn ArmDebugSequence>,
    ) -> Result<Box<dyn ArmDebugInterface + 'probe>, (Box<dyn DebugProbe>, ArmError)> {
        Ok(ArmCommunicationInterface::create(self, sequence, false))
    }

    fn into_probe(self: Box<Self>) -> Box<dyn DebugProbe> {
        self
    }

    fn try_as_dap_probe(&mut self) -> Option<&mut dyn DapProbe> {
        Some(self)
    }
}

impl DapProbe for Opened {}

impl RawDapAccess for Opened {
    fn raw_read_register(&mut self, address: RegisterAddress) -> Result<u32, ArmError> {
        let mut value = [0];
        with(self.number, |probe| probe.read(address, &mut value))?;
        Ok(value[0])
    }

    fn raw_read_block(&mut self, address: RegisterAddress, values: &mut [u32]) -> Result<(), ArmError> {
        if values.is_empty() { Ok(()) } else { with(self.number, |probe| probe.read(address, values)) }
    }

    fn raw_write_register(&mut self, address: RegisterAddress, value: u32) -> Result<(), ArmError> {
        with(self.number, |probe| probe.write(address, &[value]))
    }

    fn raw_write_block(&mut self, address: RegisterAddress, values: &[u32]) -> Result<(), ArmError> {
        with(self.number, |probe| probe.write(address, values))
    }

    fn jtag_sequence(&mut self, _cycles: u8, _tms: bool, _tdi: u64) -> Result<(), DebugProbeError> {
        Err(DebugProbeError::UnsupportedProtocol(WireProtocol::Jtag))
    }

    fn swj_sequence(&mut self, bit_len: u8, bits: u64) -> Result<(), DebugProbeError> {
        with(self.number, |probe| {
            probe.command()?;
            probe.target.swj(bit_len.into(), &bits.to_le_bytes());
            Ok(())
        })
    }

    fn swj_pins(&mut self, pin_out: u32, pin_select: u32, _pin_wait: u32) -> Result<u32, DebugProbeError> {
        if pin_select & NRESET != 0 {
            self.reset_line(pin_out & NRESET != 0)?;
        }
        with(self.number, |probe| Ok(if probe.target.reset_is_high() { 0x03 | NRESET } else { 0x03 }))
    }

    fn into_probe(self: Box<Self>) -> Box<dyn DebugProbe> {
        self
    }

    fn core_status_notification(&mut self, _status: CoreStatus) -> Result<(), DebugProbeError> {
        Ok(())
    }
}
