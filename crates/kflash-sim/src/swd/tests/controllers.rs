//! The flash controllers, driven register by register.

use kflash::addr::{FlashAddr, FlashRange, FlashSize};

use super::debugger::{AIRCR, Debugger};
use crate::swd::{Options, Trouble};

const FLASH: u32 = 0x0800_0000;

const KEYS: [u32; 2] = [0x4567_0123, 0xcdef_89ab];
const OPTION_KEYS: [u32; 2] = [0x0819_2a3b, 0x4c5d_6e7f];

fn unlock(it: &mut Debugger, register: u32, keys: [u32; 2]) {
    for key in keys {
        it.set(register, key);
    }
}

fn sector(start: u32, size: u32) -> FlashRange {
    FlashRange::new(FlashAddr(start), FlashSize(size)).unwrap()
}

mod f4 {
    use super::*;

    const KEYR: u32 = 0x4002_3c04;
    const OPTKEYR: u32 = 0x4002_3c08;
    const SR: u32 = 0x4002_3c0c;
    const CR: u32 = 0x4002_3c10;
    const OPTCR: u32 = 0x4002_3c14;
    const BSY: u32 = 1 << 16;
    const WORDS: u32 = 2 << 8;

    fn unlocked(options: Options) -> Debugger {
        let mut it = Debugger::connected("stm32f446xe", options);
        unlock(&mut it, KEYR, KEYS);
        it
    }

    fn erase(it: &mut Debugger, index: u32) -> u32 {
        it.set(CR, WORDS | 2 | index << 3);
        it.set(CR, WORDS | 2 | index << 3 | 1 << 16);
        it.wait(SR, BSY)
    }

    #[test]
    fn erases_and_programs_words() {
        let mut it = unlocked(Options::default());
        it.set(CR, WORDS | 1);
        it.set(FLASH + 0x4000, 0x1234_5678);
        assert_eq!(it.wait(SR, BSY), 0);
        assert_eq!(it.get(FLASH + 0x4000), 0x1234_5678);
        it.set(FLASH + 0x4000, 0xffff_00ff);
        assert_eq!(it.wait(SR, BSY), 0);
        assert_eq!(it.get(FLASH + 0x4000), 0x1234_0078, "bits only ever clear");
        assert_eq!(erase(&mut it, 1), 0);
        assert_eq!(it.get(FLASH + 0x4000), u32::MAX);
        assert_eq!(it.0.violations(), [""; 0]);
    }

    #[test]
    fn an_erase_is_busy_for_a_while() {
        let mut it = unlocked(Options::default());
        it.set(CR, WORDS | 2 | 1 << 16);
        let busy = (0..10_000).take_while(|_| it.get(SR) & BSY != 0).count();
        assert!((100..3000).contains(&busy), "{busy} reads");
    }

    #[test]
    fn a_power_cut_leaves_an_erase_half_done() {
        let mut it = unlocked(Options::default());
        it.set(CR, WORDS | 1);
        for at in (0..0x4000).step_by(0x100) {
            it.set(FLASH + at, 0);
            it.wait(SR, BSY);
        }
        it.set(CR, WORDS | 2 | 1 << 16);
        it.get(SR);
        it.0.power(false).unwrap();
        let flash = it.0.flash();
        assert!((0..0x4000).step_by(0x100).any(|at| flash[at..at + 4] != [0xff; 4]));
    }

    #[test]
    fn a_wrong_key_locks_until_reset() {
        let mut it = Debugger::connected("stm32f446xe", Options::default());
        assert!(!it.try_set(KEYR, 1));
        assert!(!it.try_set(KEYR, KEYS[0]));
        it.set(CR, 2);
        assert_eq!(it.get(CR), 1 << 31);
        it.0.set_reset(false).unwrap();
        it.0.set_reset(true).unwrap();
        unlock(&mut it, KEYR, KEYS);
        assert_eq!(it.get(CR), 0);
    }

    #[test]
    fn programming_needs_pg_and_its_size() {
        let mut it = unlocked(Options::default());
        it.set(FLASH, 0);
        assert_eq!(it.get(SR) & 0x80, 0x80, "PGSERR: PG is not set");
        it.set(SR, 0xf0);
        it.set(CR, 1);
        it.set(FLASH, 0);
        assert_eq!(it.get(SR) & 0x40, 0x40, "PGPERR: PSIZE is a byte");
        it.set(CR, WORDS | 1);
        it.set(FLASH, 0);
        assert_eq!(it.get(FLASH), u32::MAX, "errors have to be cleared first");
        it.set(SR, 0xf0);
        it.set(FLASH, 0);
        it.wait(SR, BSY);
        assert_eq!(it.get(FLASH), 0);
    }

    #[test]
    fn write_protection_holds() {
        let protected = vec![sector(FLASH + 0x4000, 0x4000)];
        let mut it = unlocked(Options { write_protected: protected, ..Options::default() });
        assert_eq!(it.get(OPTCR) >> 16 & 0xfff, 0xffd);
        assert_eq!(erase(&mut it, 1) & 0x10, 0x10, "WRPERR");
        it.set(SR, 0xf0);
        it.set(CR, WORDS | 1);
        it.set(FLASH + 0x4000, 0);
        assert_eq!(it.get(SR) & 0x10, 0x10);
        assert_eq!(it.get(FLASH + 0x4000), u32::MAX);
    }

    #[test]
    fn read_protection_shuts_the_flash_and_lifting_it_erases_all() {
        let mut it = unlocked(Options::default());
        it.set(CR, WORDS | 1);
        it.set(FLASH, 0x55);
        it.wait(SR, BSY);
        let mut it = Debugger::connected("stm32f446xe", Options { read_protected: true, ..Options::default() });
        assert!(it.try_get(FLASH).is_err());
        assert_eq!(it.get(OPTCR) >> 8 & 0xff, 0x55);
        it.set(OPTCR, 0x0fff_aaed);
        assert_eq!(it.get(OPTCR) >> 8 & 0xff, 0x55, "OPTCR is locked");
        unlock(&mut it, OPTKEYR, OPTION_KEYS);
        it.set(OPTCR, 0x0fff_aaec);
        it.set(OPTCR, 0x0fff_aaee);
        it.wait(SR, BSY);
        assert_eq!(it.get(OPTCR) >> 8 & 0xff, 0xaa);
        assert_eq!(it.get(FLASH), u32::MAX);
    }

    #[test]
    fn a_broken_flash_stays_busy() {
        let mut it = unlocked(Options::default());
        it.0.set_trouble(Trouble { flash_stuck: true, ..Trouble::default() }).unwrap();
        it.set(CR, WORDS | 2 | 1 << 16);
        assert!((0..20_000).all(|_| it.get(SR) & BSY != 0));
    }
}

mod f1 {
    use super::*;

    const KEYR: u32 = 0x4002_2004;
    const OPTKEYR: u32 = 0x4002_2008;
    const SR: u32 = 0x4002_200c;
    const CR: u32 = 0x4002_2010;
    const AR: u32 = 0x4002_2014;
    const OBR: u32 = 0x4002_201c;
    const BSY: u32 = 1;
    const OPTION_BYTES: u32 = 0x1fff_f800;

    fn unlocked(options: Options) -> Debugger {
        let mut it = Debugger::connected("stm32f103xe", options);
        unlock(&mut it, KEYR, KEYS);
        it
    }

    fn erase(it: &mut Debugger, addr: u32) -> u32 {
        it.set(CR, 2);
        it.set(AR, addr);
        it.set(CR, 0x42);
        it.wait(SR, BSY)
    }

    #[test]
    fn programs_half_words_only() {
        let mut it = unlocked(Options::default());
        it.set(CR, 1);
        assert!(it.set_half(FLASH + 2, 0x1234));
        it.wait(SR, BSY);
        assert_eq!(it.get(FLASH), 0x1234_ffff);
        assert!(!it.try_set(FLASH + 4, 0), "a word is a bus error");
        assert!(it.set_half(FLASH + 2, 0x0030));
        assert_eq!(it.get(SR) & 4, 4, "PGERR: it is not blank");
        assert_eq!(it.get(FLASH), 0x1234_ffff);
        it.set(SR, 0x34);
        assert!(it.set_half(FLASH + 2, 0));
        it.wait(SR, BSY);
        assert_eq!(it.get(FLASH), 0x0000_ffff, "zero always can be written");
    }

    #[test]
    fn erases_the_page_that_ar_names() {
        let mut it = unlocked(Options::default());
        it.set(CR, 1);
        for page in 0..3 {
            assert!(it.set_half(FLASH + page * 2048, 0));
            it.wait(SR, BSY);
        }
        assert_eq!(erase(&mut it, FLASH + 2048 + 100) & 0x14, 0);
        assert_eq!([0, 1, 2].map(|page| it.get(FLASH + page * 2048) as u16), [0, 0xffff, 0]);
    }

    #[test]
    fn write_protection_holds() {
        let protected = vec![sector(FLASH + 4096, 4096)];
        let mut it = unlocked(Options { write_protected: protected, ..Options::default() });
        assert_eq!(it.get(0x4002_2020), 0xffff_fffd);
        assert_eq!(erase(&mut it, FLASH + 4096) & 0x10, 0x10, "WRPRTERR");
    }

    #[test]
    fn read_protection_is_lifted_by_new_option_bytes_and_a_reset() {
        let mut it = unlocked(Options { read_protected: true, ..Options::default() });
        assert_eq!(it.get(OBR) & 2, 2);
        assert!(it.try_get(FLASH).is_err());
        unlock(&mut it, OPTKEYR, KEYS);
        it.set(CR, 0x220);
        it.set(CR, 0x260);
        it.wait(SR, BSY);
        it.set(CR, 0x210);
        assert!(it.set_half(OPTION_BYTES, 0x00a5));
        it.wait(SR, BSY);
        assert_eq!(it.get(OPTION_BYTES) as u16, 0x5aa5);
        assert_eq!(it.get(OBR) & 2, 2, "not before a reset");
        it.0.set_reset(false).unwrap();
        it.0.set_reset(true).unwrap();
        assert_eq!(it.get(OBR) & 2, 0);
        assert_eq!(it.get(FLASH), u32::MAX);
    }
}

mod g0 {
    use super::*;

    const KEYR: u32 = 0x4002_2008;
    const OPTKEYR: u32 = 0x4002_200c;
    const SR: u32 = 0x4002_2010;
    const CR: u32 = 0x4002_2014;
    const OPTR: u32 = 0x4002_2020;
    const BSY: u32 = 1 << 16;
    const ACR: u32 = 0x4002_2000;
    const EMPTY: u32 = 1 << 16;

    fn unlocked(options: Options) -> Debugger {
        let mut it = Debugger::connected("stm32g0b1xe", options);
        unlock(&mut it, KEYR, KEYS);
        it
    }

    fn erase(it: &mut Debugger, page: u32, bank_2: bool) -> u32 {
        let cr = 2 | page << 3 | u32::from(bank_2) << 13;
        it.set(CR, cr);
        it.set(CR, cr | 1 << 16);
        it.wait(SR, BSY)
    }

    #[test]
    fn a_chip_that_was_blank_starts_its_rom_until_it_is_told_otherwise() {
        let reset = |it: &mut Debugger| it.set(AIRCR, 0x05fa_0004);
        let load_options = |it: &mut Debugger| {
            unlock(it, KEYR, KEYS);
            unlock(it, OPTKEYR, OPTION_KEYS);
            it.set(CR, 1 << 27);
        };
        let clear = |it: &mut Debugger| {
            let acr = it.get(ACR);
            it.set(ACR, acr & !EMPTY);
            reset(it);
        };
        let cycle = |it: &mut Debugger| {
            it.0.power(false).unwrap();
            it.0.power(true).unwrap();
        };
        let ways: [&dyn Fn(&mut Debugger); 3] = [&load_options, &clear, &cycle];
        for way in ways {
            let mut it = unlocked(Options::default());
            it.set(CR, 1);
            it.set(FLASH, 0x2000_1000);
            it.set(FLASH + 4, 0x0800_0101);
            it.wait(SR, BSY);
            reset(&mut it);
            assert!(it.0.starts_rom() && it.get(ACR) & EMPTY != 0);
            assert_eq!(it.get(0), 0x2000_1000, "the ROM's own vectors");
            assert_eq!(it.get(4), 0x1fff_0009);
            way(&mut it);
            assert!(!it.0.starts_rom());
        }
    }

    #[test]
    fn programs_double_words_once() {
        let mut it = unlocked(Options::default());
        it.set(CR, 1);
        it.set(FLASH + 8, 1);
        assert_eq!(it.get(SR) & 1 << 18, 1 << 18, "CFGBSY: half of it is there");
        it.set(FLASH + 12, 2);
        assert_eq!(it.wait(SR, BSY), 0);
        assert_eq!([it.get(FLASH + 8), it.get(FLASH + 12)], [1, 2]);
        it.set(FLASH + 8, 0);
        it.set(FLASH + 12, 1);
        assert_eq!(it.get(SR) & 8, 8, "PROGERR: programmed before");
        it.set(SR, 0xfa);
        it.set(FLASH + 20, 1);
        assert_eq!(it.get(SR) & 0x20, 0x20, "PGAERR: the second half first");
    }

    #[test]
    fn a_unit_written_with_ff_is_not_blank() {
        let mut it = unlocked(Options::default());
        it.set(CR, 1);
        for (addr, word) in [(0, u32::MAX), (4, u32::MAX), (0, 5), (4, 6)] {
            it.set(FLASH + addr, word);
            it.wait(SR, BSY);
        }
        assert_eq!(it.get(SR) & 8, 8);
    }

    #[test]
    fn banks_have_pages_of_their_own() {
        let mut it = unlocked(Options::default());
        it.set(CR, 1);
        for addr in [FLASH + 2048, FLASH + 0x4_0000 + 2048] {
            it.set(addr, 0);
            it.set(addr + 4, 0);
            it.wait(SR, BSY);
        }
        assert_eq!(erase(&mut it, 1, true), 0);
        assert_eq!([it.get(FLASH + 2048), it.get(FLASH + 0x4_0000 + 2048)], [0, u32::MAX]);
        assert_eq!(erase(&mut it, 1, false), 0);
        assert_eq!(it.get(FLASH + 2048), u32::MAX);
        assert_eq!(erase(&mut it, 128, false) & 0x80, 0x80, "a bank has 128 pages");
    }

    #[test]
    fn read_protection_is_lifted_when_the_option_bytes_are_loaded() {
        let mut it = unlocked(Options { read_protected: true, ..Options::default() });
        assert!(it.try_get(FLASH).is_err());
        unlock(&mut it, OPTKEYR, OPTION_KEYS);
        it.set(OPTR, 0xdfff_e1aa);
        it.set(CR, 1 << 17);
        it.wait(SR, BSY);
        assert!(it.try_get(FLASH).is_err(), "not before they are loaded");
        it.set(CR, 1 << 27);
        assert_eq!(it.get(FLASH), u32::MAX);
        assert_eq!(it.get(CR) >> 30, 3, "a reset locked it again");
    }
}
