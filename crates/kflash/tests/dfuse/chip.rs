//! A chip in ROM DFU that answers as it is told, and notes every breach of the rules by the driver.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kflash::clock::Clock;
use kflash::link::{LinkError, Setup, UsbLink};

/// Time that passes only when somebody waits.
#[derive(Default)]
pub struct TestClock(Mutex<Duration>);

impl Clock for TestClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
    }
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Open,
    Clear,
    Abort,
    Pointer,
    Erase,
    Data,
    Leave,
    Upload,
}

/// One answer to a request.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    /// `bStatus`, `bwPollTimeout` in ms, `bState`; the time for which the chip holds the answer.
    Status(u8, u32, u8, Duration),
    Stall,
    Gone,
    TimedOut,
}

pub const fn status(code: u8, poll: u32, state: u8) -> Reply {
    Reply::Status(code, poll, state, Duration::ZERO)
}

pub const fn held(code: u8, poll: u32, state: u8, ms: u64) -> Reply {
    Reply::Status(code, poll, state, Duration::from_millis(ms))
}

/// What the chip does and what was done to it.
pub struct Chip {
    pub configuration: Vec<u8>,
    pub device: Vec<u8>,
    /// Whole string descriptors by index.
    pub strings: BTreeMap<u8, Vec<u8>>,
    /// Answers to `DFU_GETSTATUS` after each occurrence of a request; the last occurrence repeats.
    pub answers: BTreeMap<Kind, VecDeque<Vec<Reply>>>,
    /// What becomes of the request itself; done where nothing is said.
    pub requests: BTreeMap<Kind, Reply>,
    pub memory: BTreeMap<u32, u8>,
    pub erased: Vec<u32>,
    pub pointers: Vec<u32>,
    pub transfers: usize,
    pub breaches: Vec<String>,
    pub used: BTreeMap<Kind, usize>,
    pub alternate: Option<u8>,
    pub transfer_size: u32,
    /// An upload ends after so many bytes.
    pub upload_most: Option<usize>,
    queue: VecDeque<Reply>,
    last: Option<Reply>,
    /// The state that was last reported, and when it may be asked for again.
    state: u8,
    not_before: Duration,
    gone: bool,
}

pub fn string_descriptor(text: &str) -> Vec<u8> {
    let payload: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [vec![payload.len() as u8 + 2, 3], payload].concat()
}

pub fn configuration(alternates: u8, transfer_size: u16) -> Vec<u8> {
    let mut bytes = vec![9, 2, 0, 0, 1, 1, 0, 0xc0, 50];
    for alternate in 0..alternates {
        bytes.extend([9, 4, 0, alternate, 0, 0xfe, 1, 2, 4 + alternate]);
    }
    bytes.extend([9, 0x21, 0x0b, 0xff, 0]);
    bytes.extend(transfer_size.to_le_bytes());
    bytes.extend([0x1a, 1]);
    bytes[2] = bytes.len() as u8;
    bytes
}

impl Chip {
    /// A chip with one alternate that is idle, and done at once with whatever it is sent.
    pub fn new(layout: &str, transfer_size: u16) -> Self {
        let mut device = vec![18, 1, 0, 1, 0, 0, 0, 64, 0x83, 0x04, 0x11, 0xdf, 0x00, 0x22, 1, 2, 3, 1];
        device.truncate(18);
        let done = |reply: &[Reply]| VecDeque::from([reply.to_vec()]);
        let downloaded = done(&[status(0, 0, 4), status(0, 0, 5)]);
        Self {
            configuration: configuration(1, transfer_size),
            device,
            strings: BTreeMap::from([(0, vec![4, 3, 9, 4]), (4, string_descriptor(layout))]),
            answers: BTreeMap::from([
                (Kind::Open, done(&[status(0, 0, 2)])),
                (Kind::Clear, done(&[status(0, 0, 2)])),
                (Kind::Abort, done(&[status(0, 0, 2)])),
                (Kind::Pointer, downloaded.clone()),
                (Kind::Erase, downloaded.clone()),
                (Kind::Data, downloaded),
                (Kind::Leave, done(&[status(0, 1, 7), Reply::Gone])),
                (Kind::Upload, done(&[status(0, 0, 9)])),
            ]),
            requests: BTreeMap::new(),
            memory: BTreeMap::new(),
            erased: Vec::new(),
            pointers: Vec::new(),
            transfers: 0,
            breaches: Vec::new(),
            used: BTreeMap::new(),
            alternate: None,
            transfer_size: transfer_size.into(),
            upload_most: None,
            queue: VecDeque::new(),
            last: None,
            state: 2,
            not_before: Duration::ZERO,
            gone: false,
        }
    }

    pub fn answer(&mut self, kind: Kind, replies: &[Reply]) {
        self.answers.insert(kind, VecDeque::from([replies.to_vec()]));
    }

    pub fn bytes(&self, start: u32, length: usize) -> Vec<u8> {
        (start..).take(length).map(|at| self.memory.get(&at).copied().unwrap_or(0xff)).collect()
    }

    /// Times a request of this kind was sent.
    pub fn count(&self, kind: Kind) -> usize {
        self.used.get(&kind).copied().unwrap_or(0)
    }

    fn begin(&mut self, kind: Kind) -> Result<(), LinkError> {
        *self.used.entry(kind).or_default() += 1;
        self.not_before = Duration::ZERO;
        if let Some(replies) = self.answers.get_mut(&kind) {
            self.queue = match replies.len() {
                0 => VecDeque::new(),
                1 => replies[0].clone().into(),
                _ => replies.pop_front().unwrap().into(),
            };
            self.last = None;
        }
        match self.requests.get(&kind).copied() {
            None => Ok(()),
            Some(reply) => self.refuse(reply),
        }
    }

    fn refuse(&mut self, reply: Reply) -> Result<(), LinkError> {
        match reply {
            Reply::Status(..) => Ok(()),
            Reply::Stall => Err(LinkError::Stall),
            Reply::TimedOut => Err(LinkError::TimedOut(Duration::from_secs(5))),
            Reply::Gone => {
                self.gone = true;
                Err(LinkError::Gone)
            }
        }
    }

    fn breach(&mut self, what: String) {
        self.breaches.push(what);
    }

    fn get_status(&mut self, clock: &TestClock, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        if self.state == 4 && clock.now() < self.not_before {
            self.breach(format!("asked {:?} too early", self.not_before.saturating_sub(clock.now())));
        }
        // The last answer to a request is repeated.
        if let Some(next) = self.queue.pop_front() {
            self.last = Some(next);
        }
        let reply = self.last.unwrap_or(Reply::Stall);
        let Reply::Status(code, poll, state, hold) = reply else {
            return self.refuse(reply).map(|()| Vec::new());
        };
        clock.sleep(hold.min(timeout));
        if hold > timeout {
            return Err(LinkError::TimedOut(timeout));
        }
        self.state = state;
        self.not_before = clock.now() + Duration::from_millis(poll.into());
        let [low, middle, high, _] = poll.to_le_bytes();
        Ok(vec![code, low, middle, high, state, 0])
    }

    fn download(&mut self, block: u16, data: &[u8]) -> Result<(), LinkError> {
        if !matches!(self.state, 2 | 5) {
            self.breach(format!("download in state {}", self.state));
        }
        let address = |data: &[u8]| u32::from_le_bytes([data[1], data[2], data[3], data[4]]);
        match (block, data) {
            (0, [0x21, _, _, _, _]) => {
                self.begin(Kind::Pointer)?;
                self.pointers.push(address(data));
            }
            (0, [0x41, _, _, _, _]) => {
                self.begin(Kind::Erase)?;
                self.erased.push(address(data));
            }
            (2, []) => self.begin(Kind::Leave)?,
            (2.., data) if !data.is_empty() && data.len() as u32 <= self.transfer_size => {
                self.begin(Kind::Data)?;
                let start = self.pointers.last().unwrap() + u32::from(block - 2) * self.transfer_size;
                for (at, byte) in (start..).zip(data) {
                    if self.memory.insert(at, *byte).is_some_and(|old| old != *byte) {
                        self.breach(format!("{at:#x} written twice"));
                    }
                }
            }
            other => self.breach(format!("unknown download {other:02x?}")),
        }
        Ok(())
    }
}

/// The driver's end of the cable.
pub struct ChipLink {
    pub chip: Arc<Mutex<Chip>>,
    pub clock: Arc<TestClock>,
    device: Vec<u8>,
    configuration: Vec<u8>,
}

/// A chip with its clock and a link to it.
pub fn plug(chip: Chip) -> (Arc<Mutex<Chip>>, Arc<TestClock>, Box<dyn UsbLink>) {
    let (device, configuration) = (chip.device.clone(), chip.configuration.clone());
    let (chip, clock) = (Arc::new(Mutex::new(chip)), Arc::new(TestClock::default()));
    let link = ChipLink { chip: chip.clone(), clock: clock.clone(), device, configuration };
    (chip, clock, Box::new(link))
}

impl UsbLink for ChipLink {
    fn device_descriptor(&self) -> &[u8] {
        &self.device
    }

    fn configuration_descriptor(&self) -> &[u8] {
        &self.configuration
    }

    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let mut chip = self.chip.lock().unwrap();
        chip.transfers += 1;
        if chip.gone {
            return Err(LinkError::Gone);
        }
        match (setup.request_type, setup.request) {
            (0x80, 6) if setup.value >> 8 == 3 => {
                let index = setup.value.to_le_bytes()[0];
                chip.strings.get(&index).cloned().ok_or(LinkError::Stall)
            }
            (0xa1, 3) => {
                assert_eq!((setup.value, setup.index, length), (0, 0, 6));
                chip.get_status(&self.clock, timeout)
            }
            (0xa1, 2) => {
                if !matches!(chip.state, 2 | 9) {
                    let state = chip.state;
                    chip.breach(format!("upload in state {state}"));
                }
                chip.begin(Kind::Upload)?;
                chip.state = 9;
                let start = chip.pointers.last().unwrap() + u32::from(setup.value - 2) * chip.transfer_size;
                let most = chip.upload_most.unwrap_or(usize::MAX);
                Ok(chip.bytes(start, most.min(length.into())))
            }
            other => {
                chip.breach(format!("unknown request {other:02x?}"));
                Err(LinkError::Stall)
            }
        }
    }

    fn control_out(&mut self, setup: Setup, data: &[u8], _timeout: Duration) -> Result<(), LinkError> {
        let mut chip = self.chip.lock().unwrap();
        chip.transfers += 1;
        if chip.gone {
            return Err(LinkError::Gone);
        }
        assert_eq!((setup.request_type, setup.index), (0x21, 0));
        let state = chip.state;
        match setup.request {
            1 => chip.download(setup.value, data),
            4 => {
                // The STM32H743 wants it while it is busy without end.
                if !matches!(state, 10 | 4) {
                    chip.breach(format!("DFU_CLRSTATUS in state {state}"));
                }
                chip.begin(Kind::Clear)
            }
            6 => {
                if !matches!(state, 5 | 9) {
                    chip.breach(format!("DFU_ABORT in state {state}"));
                }
                chip.begin(Kind::Abort)
            }
            other => {
                chip.breach(format!("unknown request {other}"));
                Err(LinkError::Stall)
            }
        }
    }

    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError> {
        assert_eq!(interface, 0);
        let mut chip = self.chip.lock().unwrap();
        chip.alternate = Some(alternate);
        chip.begin(Kind::Open)
    }

    fn bulk_in(&mut self, _endpoint: u8, _length: usize, _timeout: Duration) -> Result<Vec<u8>, LinkError> {
        Err(LinkError::Unsupported { what: "a bulk transfer" })
    }

    fn bulk_out(&mut self, _endpoint: u8, _data: &[u8], _timeout: Duration) -> Result<(), LinkError> {
        Err(LinkError::Unsupported { what: "a bulk transfer" })
    }
}
