//! What each device ran: the memory behind `kflash flash --previous`.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Lookup};
use super::files::{Fault, Folder, sync_folder, write_new};
use super::folder::DEVICES;
use super::{Cache, CacheError, Damage, Key, sealed};
use crate::board::BoardId;
use crate::digest::Sha256;
use crate::discover::{Device, Mode};
use crate::timestamp::Timestamp;

/// Firmwares that are remembered of a device.
const HISTORY: usize = 8;
/// Of these, those whose images gc keeps: what it runs and what it ran before.
const KEPT: usize = 2;
/// Bytes of a device's file; real ones have four thousand.
const MAX_RECORD: usize = 64 * 1024;
/// The serial number of a Klipper whose chip has none of its own (Klipper src/Kconfig, `USB_SERIAL_NUMBER`).
const NO_SERIAL: &str = "12345";

/// What a device is known again by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceKeys {
    /// The serial number, where it is the chip's own: it goes wherever the board goes.
    pub serial: Option<String>,
    /// Where it is: a USB port path, a tty, an address. It means something on one host only.
    pub place: String,
}

/// A firmware that a device ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// When it was last known to run.
    pub time: Timestamp,
    /// The board that the device was taken for.
    pub board: BoardId,
    /// `Klipper` or `Kalico`.
    pub app: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its dictionary.
    pub dictionary_sha256: Sha256,
    /// The image; `None` if somebody else flashed it.
    pub image: Option<RanImage>,
}

/// An image that kflash flashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RanImage {
    /// What it is found by.
    pub key: Key,
    /// The digest of its file.
    pub sha256: Sha256,
}

/// A device and what it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// The device.
    pub device: DeviceKeys,
    /// What it ran, the latest last.
    pub ran: Vec<Ran>,
}

/// All devices that are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Those that can be read.
    pub devices: Vec<Remembered>,
    /// Those that cannot.
    pub damage: Vec<Damage>,
}

/// What a device ran before what it runs now.
#[derive(Clone, Debug, PartialEq)]
pub enum Previous {
    /// This image.
    Image {
        /// When it ran.
        ran: Ran,
        /// The image.
        entry: Box<Entry>,
    },
    /// Nothing else is remembered than this: it may be nothing at all, or of another board at the same place.
    Unknown {
        /// What is remembered, the latest last.
        remembered: Vec<Ran>,
        /// What cannot be read of the memory.
        damage: Vec<Damage>,
    },
    /// This, but its image is not in the cache.
    NotStored {
        /// What ran.
        ran: Ran,
        /// What is wrong with the image, if it is there but damaged.
        damage: Option<Damage>,
    },
    /// This, which only its dictionary tells, and several images have the same: they may start at different addresses.
    Several {
        /// What ran.
        ran: Ran,
        /// The images.
        keys: Vec<Key>,
    },
}

impl DeviceKeys {
    /// What `device` is known again by.
    pub fn of(device: &Device) -> Self {
        // A boot ROM shows another serial number than the firmware, and a USB-UART bridge its own.
        let own = matches!(device.mode, Mode::Klipper | Mode::KlipperCanBridge | Mode::Katapult);
        let serial = device.usb.as_ref().and_then(|usb| usb.serial.clone());
        let unique = |serial: &String| !serial.is_empty() && serial != NO_SERIAL;
        Self { serial: serial.filter(|serial| own && unique(serial)), place: device.place.to_string() }
    }

    /// Whether this is a record of the device that `asked` is. A device without a serial number of its own may be in its
    /// ROM: its place has to do.
    fn is_of(&self, asked: &Self) -> bool {
        if asked.serial.is_some() { self.serial == asked.serial } else { self.place == asked.place }
    }

    fn file_name(&self) -> String {
        let identity = match &self.serial {
            Some(serial) => format!("serial {serial}"),
            None => format!("place {}", self.place),
        };
        format!("{:.32}.json", Sha256::of(identity.as_bytes()))
    }
}

impl Remembered {
    /// The latest of what it ran, each once, the latest first.
    fn latest(&self) -> impl Iterator<Item = &Ran> {
        let mut seen = Vec::new();
        self.ran.iter().rev().filter(move |ran| {
            let new = !seen.contains(&ran.dictionary_sha256);
            seen.push(ran.dictionary_sha256);
            new
        })
    }

    fn note(&mut self, mut ran: Ran) {
        let known = |earlier: &&Ran| earlier.dictionary_sha256 == ran.dictionary_sha256;
        // What somebody else flashed again is most likely what kflash did.
        let image = self.ran.iter().rev().find(known).and_then(|earlier| earlier.image.clone());
        ran.image = ran.image.or(image);
        self.ran.pop_if(|last| last.dictionary_sha256 == ran.dictionary_sha256);
        self.ran.push(ran);
        self.ran.drain(..self.ran.len().saturating_sub(HISTORY));
    }
}

impl Cache {
    /// Notes that `device` ran this, in this order.
    pub fn remember(&self, device: &DeviceKeys, ran: impl IntoIterator<Item = Ran>) -> Result<(), CacheError> {
        let folder = self.make(DEVICES)?;
        let scratch = self.scratch("remember")?;
        let _lock = self.write_lock()?;
        let path = folder.join(device.file_name());
        let mut record = match self.read_record(&path) {
            Ok(record) => record,
            Err(Fault::System(error)) => return Err(error),
            // A damaged one is lost.
            Err(Fault::Missing | Fault::Damaged { .. }) => Remembered { device: device.clone(), ran: Vec::new() },
        };
        record.device = device.clone();
        for ran in ran {
            record.note(ran);
        }
        let text = sealed::seal(&record).map_err(|_| CacheError::Inconsistent("a device's memory is no JSON"))?;
        if text.len() > MAX_RECORD {
            return Err(CacheError::Inconsistent("a device's memory is too long"));
        }
        let new = scratch.path().join("device");
        write_new(&new, &text)?;
        fs::rename(&new, &path).map_err(CacheError::io("write", &path))?;
        sync_folder(&folder)
    }

    /// All devices and what they ran.
    pub fn devices(&self) -> Result<Memory, CacheError> {
        let mut memory = Memory::default();
        for path in self.names(DEVICES)? {
            match self.read_record(&path) {
                Ok(record) => memory.devices.push(record),
                Err(Fault::Missing) => {}
                Err(Fault::Damaged { path, what }) => memory.damage.push(Damage { key: None, path, what }),
                Err(Fault::System(error)) => return Err(error),
            }
        }
        Ok(memory)
    }

    /// What `device`, a board of this kind, ran before the firmware that it runs now: `running` is the digest of that
    /// one's dictionary; without it, the device runs the latest that is remembered.
    pub fn previous(
        &self,
        device: &DeviceKeys,
        running: Option<Sha256>,
        board: &BoardId,
    ) -> Result<Previous, CacheError> {
        let Memory { devices, damage } = self.devices()?;
        let time = |record: &&Remembered| record.ran.last().map(|ran| ran.time);
        let record = devices.into_iter().filter(|record| record.device.is_of(device)).max_by_key(|it| time(&it));
        let remembered = record.map(|record| record.ran).unwrap_or_default();
        let mut of_board = remembered.iter().rev().filter(|ran| ran.board == *board).peekable();
        let running = running.or(of_board.peek().map(|ran| ran.dictionary_sha256));
        match of_board.find(|ran| Some(ran.dictionary_sha256) != running).cloned() {
            Some(ran) => self.image_of(ran),
            None => Ok(Previous::Unknown { remembered, damage }),
        }
    }

    /// The image that was run.
    fn image_of(&self, ran: Ran) -> Result<Previous, CacheError> {
        let mut damage = None;
        if let Some(image) = &ran.image {
            match self.find(&image.key)? {
                Lookup::Found(entry) if entry.provenance.image.sha256 == image.sha256 => {
                    return Ok(Previous::Image { ran, entry });
                }
                Lookup::Damaged(found) => damage = Some(found),
                Lookup::Found(_) | Lookup::Absent => {}
            }
        }
        let listed = self.list()?;
        let mut fitting: Vec<_> = listed.iter().filter_map(|it| Some((it.key?, it.provenance.as_ref()?))).collect();
        fitting.retain(|(_, provenance)| match &ran.image {
            Some(image) => provenance.image.sha256 == image.sha256,
            None => provenance.dictionary_sha256 == ran.dictionary_sha256,
        });
        if fitting.iter().any(|(_, provenance)| provenance.is_for(&ran.board)) {
            fitting.retain(|(_, provenance)| provenance.is_for(&ran.board));
        }
        let Some((key, first)) = fitting.first() else { return Ok(Previous::NotStored { ran, damage }) };
        if fitting.iter().any(|(_, provenance)| provenance.image.sha256 != first.image.sha256) {
            return Ok(Previous::Several { ran, keys: fitting.iter().map(|(key, _)| *key).collect() });
        }
        Ok(match self.find(key)? {
            Lookup::Found(entry) => Previous::Image { ran, entry },
            Lookup::Damaged(damage) => Previous::NotStored { ran, damage: Some(damage) },
            Lookup::Absent => Previous::NotStored { ran, damage: None },
        })
    }

    fn read_record(&self, path: &Path) -> Result<Remembered, Fault> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let text = Folder::open(&self.at_folder(DEVICES))?.read(name, MAX_RECORD)?;
        let json =
            sealed::unseal(&text).ok_or_else(|| Fault::damaged(path, "its bytes are not those that were stored"))?;
        let record: Remembered =
            serde_json::from_slice(&json).map_err(|error| Fault::damaged(path, error.to_string()))?;
        if record.device.file_name() == name { Ok(record) } else { Err(Fault::damaged(path, "it is another device's")) }
    }
}

/// The firmwares that devices run or ran before: their images are kept.
pub(super) fn kept(memory: &Memory) -> Vec<Ran> {
    memory.devices.iter().flat_map(|record| record.latest().take(KEPT)).cloned().collect()
}
