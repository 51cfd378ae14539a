//! A chip at a debug probe, and images for it.

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::boards;
use kflash::chip::Chip;
use kflash::proto::swd::{Connect, Probes, Swd, SwdError};
use kflash::proto::{Bootloader as _, ProtoError};
use kflash_sim::flash::Timing;
use kflash_sim::swd::{CoreState, Options, Port, Refused, Target, Trouble};
use tests::swd_probe::{self, DRIVER, DeskClock};

/// `cpsid i; ldr r0, [pc, #12]; movs r1, #0; loop: adds r1, #1; str r1, [r0]; b loop`, and the address that it counts at.
const COUNTS: [u16; 10] = [0xb672, 0x4803, 0x2100, 0x3101, 0x6001, 0xe7fc, 0xbf00, 0xbf00, COUNTER as u16, 0x2000];

/// Where the firmware of [`image`] counts.
pub const COUNTER: u32 = 0x2000_0100;

/// A built-in chip.
pub fn chip(id: &str) -> Chip {
    boards::builtin_chips().unwrap().into_iter().find(|chip| chip.id == id).unwrap()
}

/// Firmware that runs: a vector table, code that counts in RAM, and words that no two seeds share.
pub fn image(chip: &Chip, start: u32, size: usize, seed: u32) -> Vec<u8> {
    let code_at = 0x100;
    let mut bytes: Vec<u8> = (0..size as u32)
        .map(|at| at.wrapping_mul(0x9e37_79b1).wrapping_add(seed.wrapping_mul(0x85eb_ca6b)).rotate_left(7) as u8)
        .collect();
    let stack = chip.ram[0].start.0 + 0x1000;
    bytes[..4].copy_from_slice(&stack.to_le_bytes());
    bytes[4..8].copy_from_slice(&(start + code_at + 1).to_le_bytes());
    for (index, half) in COUNTS.iter().enumerate() {
        let at = code_at as usize + 2 * index;
        bytes[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
    bytes
}

/// A chip at the only probe on the desk.
pub struct Bench {
    /// The probe's number on the desk.
    pub probe: usize,
    pub chip: Chip,
    pub definition: String,
    pub unlock: bool,
}

impl Bench {
    /// One with these contents.
    pub fn new(id: &str, contents: &[(u32, Vec<u8>)], options: Options) -> Self {
        swd_probe::clear();
        let chip = chip(id);
        let probe = swd_probe::plug("SIM00001", Target::new(&chip, contents, options).unwrap());
        // probe-rs waits by the clock on the wall, which says little about a chip that shares it with a compiler.
        let definition = boards::swd_definition(id).unwrap().replace("_timeout: ", "_timeout: 100");
        Self { probe, chip, definition, unlock: false }
    }

    /// A blank one.
    pub fn blank(id: &str) -> Self {
        Self::new(id, &[], Options { timing: Timing::Real, ..Options::default() })
    }

    /// Something wrong with the chip or its wires from now on.
    pub fn trouble(&self, trouble: Trouble) {
        swd_probe::with(self.probe, |probe| probe.target.set_trouble(trouble).unwrap());
    }

    /// What the core does.
    pub fn core(&self) -> CoreState {
        swd_probe::with(self.probe, |probe| probe.target.core())
    }

    /// Leaves the chip as a debugger before left it, halted and with C_DEBUGEN set: attaching under reset then succeeds at once, and
    /// not only after a tenth of a second.
    pub fn debug(&self) {
        swd_probe::with(self.probe, |probe| {
            let target = &mut probe.target;
            target.swj(56, &[0xff; 7]);
            target.swj(16, &[0x9e, 0xe7]);
            target.swj(56, &[0xff; 7]);
            target.swj(2, &[0]);
            target.read(Port::Debug, 0x0).unwrap();
            let writes = [
                (Port::Debug, 0x0, 0x1e),
                (Port::Debug, 0x4, 0x5000_0000),
                (Port::Debug, 0x8, 0),
                (Port::Access, 0x0, 0x2300_0002),
                (Port::Access, 0x4, 0xe000_edf0),
                (Port::Access, 0xc, 0xa05f_0003),
            ];
            for (port, addr, value) in writes {
                while target.write(port, addr, value) == Err(Refused::Wait) {}
            }
        });
    }

    pub fn connect(&self) -> Result<Swd, SwdError> {
        Swd::connect(&Connect {
            probes: &Probes::of(vec![&DRIVER]),
            probe: None,
            chip: &self.chip,
            definition: Some(&self.definition),
            unlock: self.unlock,
            clock: &DeskClock,
        })
    }

    /// Flashes as the plan does: erase, the rest, the first page, finish, read back, start.
    pub fn flash(&self, start: u32, image: &[u8]) -> Result<(), Failure> {
        let mut swd = self.connect()?;
        self.write(&mut swd, start, image)?;
        swd.start(FlashAddr(start))?;
        Ok(())
    }

    /// The same up to reading back.
    pub fn write(&self, swd: &mut Swd, start: u32, image: &[u8]) -> Result<(), Failure> {
        let range = FlashRange::new(FlashAddr(start), FlashSize(image.len() as u32)).unwrap();
        for sector in self.chip.sectors().filter(|sector| sector.overlaps(range)) {
            swd.erase(sector)?;
        }
        let first = image.len().min(swd.info().block_size.0 as usize);
        if image.len() > first {
            swd.write(FlashAddr(start + first as u32), &image[first..], &mut |_| ())?;
        }
        swd.write(FlashAddr(start), &image[..first], &mut |_| ())?;
        swd.finish()?;
        let read = swd.read(range, &mut |_| ())?;
        if read != image {
            return Err(Failure::Differs);
        }
        Ok(())
    }

    /// The same over what lies there, by a definition with one half-word of its code replaced.
    pub fn with_code(&mut self, at: usize, half: u16) {
        let line = self.definition.lines().find(|line| line.starts_with("  instructions: ")).unwrap().to_owned();
        let encoded = line.trim_start_matches("  instructions: ");
        let mut code = base64::decode(encoded);
        code[at..at + 2].copy_from_slice(&half.to_le_bytes());
        self.definition = self.definition.replace(encoded, &base64::encode(&code));
    }

    /// What the flash holds there.
    pub fn holds(&self, start: u32, length: usize) -> Vec<u8> {
        let at = (start - self.chip.flash_start.0) as usize;
        swd_probe::with(self.probe, |probe| probe.target.flash())[at..at + length].to_vec()
    }

    /// Lets the chip run on its own; whether its firmware counts.
    pub fn counts(&self) -> bool {
        swd_probe::with(self.probe, |probe| {
            let counted = |target: &mut Target| {
                target.run().unwrap();
                target.word(COUNTER).unwrap()
            };
            let first = counted(&mut probe.target);
            counted(&mut probe.target) > first
        })
    }

    pub fn violations(&self) -> Vec<String> {
        swd_probe::with(self.probe, |probe| probe.target.violations())
    }
}

/// Why a flash failed.
#[derive(Debug)]
pub enum Failure {
    Connect(SwdError),
    Proto(ProtoError),
    /// What was read back differs.
    Differs,
}

impl From<SwdError> for Failure {
    fn from(error: SwdError) -> Self {
        Self::Connect(error)
    }
}

impl From<ProtoError> for Failure {
    fn from(error: ProtoError) -> Self {
        Self::Proto(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Proto(error) => error.fmt(f),
            Self::Differs => f.write_str("read back differs"),
        }
    }
}

/// As target definitions hold their code (RFC 4648 §4).
mod base64 {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    pub fn decode(text: &str) -> Vec<u8> {
        let sextets = text.bytes().filter(|byte| *byte != b'=').map(|byte| {
            let index = ALPHABET.iter().position(|letter| *letter == byte).unwrap();
            index as u32
        });
        let sextets: Vec<u32> = sextets.collect();
        let mut bytes = Vec::new();
        for group in sextets.chunks(4) {
            let word = group.iter().fold(0, |word, sextet| word << 6 | sextet) << (6 * (4 - group.len()));
            bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
        }
        bytes
    }

    pub fn encode(bytes: &[u8]) -> String {
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let mut word = [0; 4];
            word[1..=group.len()].copy_from_slice(group);
            let word = u32::from_be_bytes(word);
            for index in 0..4 {
                let letter = ALPHABET[(word >> (18 - 6 * index) & 63) as usize];
                text.push(if index > group.len() { '=' } else { char::from(letter) });
            }
        }
        text
    }
}
