//! A board in ROM DFU and a host that sends it single requests.

use std::time::Duration;

use kflash::board::Profile;
use kflash::chip::Chip;
use kflash::link::Setup;
use kflash_sim::board::{Contents, Control, Options, VirtualBoard};

pub const ERASE: u8 = 0x41;
pub const SET_POINTER: u8 = 0x21;

pub struct Client {
    pub board: VirtualBoard,
    pub now: Duration,
}

/// A chip of boards/chips, or one that only its ROM is known of.
pub fn chip(id: &str) -> Chip {
    let built_in = kflash::boards::builtin_chips().unwrap().into_iter().find(|chip| chip.id == id);
    built_in.unwrap_or_else(|| {
        let (sectors, serial, quirks) = match id {
            "stm32f105xc" => ("128*2K", r#"{ constant = "STM32" }"#, ""),
            "stm32f401xe" => ("4*16K,1*64K,3*128K", r#""uid""#, ""),
            "stm32f469xi" => ("4*16K,1*64K,7*128K", r#""uid""#, ""),
            "stm32f722xe" => ("4*16K,1*64K,3*128K", r#"{ constant = "STM32FxSTM32" }"#, ""),
            "stm32f745xg" => ("4*32K,1*128K,3*256K", r#""uid""#, ""),
            "stm32g474xe" => ("256*2K", r#""uid""#, ""),
            "stm32h750xb" => ("1*128K", r#""uid""#, r#""layout-too-large""#),
            "gd32vf103xb" => ("128*1K", r#""unknown""#, r#""layout-too-large""#),
            other => panic!("no chip {other}"),
        };
        let text = format!(
            "id = {id:?}\nmcu = [{id:?}]\nflash-start = 0x08000000\nsectors = {sectors:?}\nprogram-unit = 4\n\
             ram = [{{ start = 0x20000000, size = 0x20000 }}]\n[rom-dfu]\nserial = {serial}\nquirks = [{quirks}]\n"
        );
        toml::from_str(&text).unwrap()
    })
}

pub fn profile(chip: &Chip) -> Profile {
    let text = format!(
        "id = \"test\"\nname = \"test\"\nchip = {:?}\nverified = \"simulated\"\nroutes = []\nhands = {{}}\nsources = []\n\
         [[bootloaders]]\nid = \"none\"\nkind = \"none\"\napp-start = {}\n",
        chip.id, chip.flash_start.0
    );
    toml::from_str(&text).unwrap()
}

impl Client {
    pub fn new(chip_id: &str) -> Self {
        Self::with(chip_id, [0; 12], Options::default())
    }

    pub fn with(chip_id: &str, uid: [u8; 12], options: Options) -> Self {
        let chip = chip(chip_id);
        let contents = Contents { bootloader: "none".into(), uid, ..Contents::default() };
        let mut board = VirtualBoard::with_options(&profile(&chip), &chip, contents, options).unwrap();
        board.set_boot0(true);
        board.power(Duration::ZERO, true);
        let now = Duration::from_secs(1);
        board.advance(now);
        assert!(board.usb().is_some());
        Self { board, now }
    }

    /// A request that the device is given all the time it wants for.
    pub fn request(&mut self, request_type: u8, request: u8, value: u16, data: &[u8], length: u16) -> Control {
        let setup = Setup { request_type, request, value, index: 0 };
        let answer = self.board.control(self.now, setup, data, length);
        if let Control::Done { held, .. } = &answer {
            self.now += *held;
        }
        answer
    }

    pub fn download(&mut self, block: u16, data: &[u8]) -> Control {
        self.request(0x21, 1, block, data, data.len() as u16)
    }

    pub fn upload(&mut self, block: u16, length: u16) -> Control {
        self.request(0xa1, 2, block, &[], length)
    }

    pub fn clear_status(&mut self) -> Control {
        self.request(0x21, 4, 0, &[], 0)
    }

    pub fn abort(&mut self) -> Control {
        self.request(0x21, 6, 0, &[], 0)
    }

    /// bStatus, bwPollTimeout and bState; `None` where it is stalled or unanswered.
    pub fn status(&mut self) -> Option<[u32; 3]> {
        match self.request(0xa1, 3, 0, &[], 6) {
            Control::Done { data, .. } => {
                assert_eq!(data.len(), 6);
                Some([data[0].into(), u32::from_le_bytes([data[1], data[2], data[3], 0]), data[4].into()])
            }
            Control::Stall | Control::Vanished => None,
        }
    }

    /// Clears the error that an old ROM starts in.
    pub fn settle_idle(&mut self) {
        if self.status().unwrap()[2] == 10 {
            assert!(is_done(&self.clear_status()));
        }
        assert_eq!(self.status().unwrap()[2], 2);
    }

    pub fn command(&mut self, code: u8, address: u32) {
        let data = [&[code][..], &address.to_le_bytes()].concat();
        assert!(is_done(&self.download(0, &data)), "{code:#04x} {address:#010x}");
    }

    /// Polls as the device asks until it is not busy; the last status.
    pub fn settle(&mut self) -> [u32; 3] {
        for _ in 0..20 {
            let status = self.status().unwrap();
            if status[2] != 4 {
                return status;
            }
            self.now += Duration::from_millis(status[1].into());
        }
        panic!("busy for ever");
    }

    pub fn run(&mut self, code: u8, address: u32) -> [u32; 3] {
        self.command(code, address);
        self.settle()
    }

    pub fn write(&mut self, block: u16, data: &[u8]) -> [u32; 3] {
        assert!(is_done(&self.download(block, data)));
        self.settle()
    }
}

pub fn is_done(answer: &Control) -> bool {
    matches!(answer, Control::Done { .. })
}
