//! The host, looked at once for all of its boards, which are then asked side by side.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kflash::boards;
use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Scan};
use kflash::exit::ExitCode;
use kflash::host::{Holders, Host, LockError};
use kflash::identify::Selector;
use kflash::link::{ByteLink, LinkError, UsbLink};
use kflash::system::SystemHost;

use super::target::Subject;
use crate::detect::{self, may_be_a_board};
use crate::failure::Failure;

/// Boards that are asked at once: each waits for its wire.
const AT_ONCE: usize = 32;

/// Boards and the host that they are on.
pub struct Survey {
    seen: Seen,
    root: PathBuf,
    subjects: Vec<Subject>,
}

/// A host as it was when it was looked at: twenty boards take one walk through sysfs and one through /proc.
struct Seen {
    host: SystemHost,
    scan: Scan,
    holders: Vec<Holders>,
}

impl Survey {
    /// These boards.
    pub fn of(root: &Path, mut subjects: Vec<Subject>) -> Result<Self, Failure> {
        let host = SystemHost::new(root);
        let mut local = Vec::new();
        for subject in &subjects {
            if let Subject::Board(target) = subject
                && !is_remote(&target.selectors)
            {
                local.extend(target.selectors.iter().cloned());
            }
        }
        let (host, resolved) = host.with_selectors(local);
        let mut resolved = resolved.into_iter();
        for subject in &mut subjects {
            if let Subject::Board(target) = subject
                && !is_remote(&target.selectors)
            {
                target.selectors = resolved.by_ref().take(target.selectors.len()).collect();
            }
        }
        let seen = Seen::of(host)?;
        Ok(Self { seen, root: root.to_owned(), subjects })
    }

    /// Every board of the host.
    pub fn of_all(root: &Path) -> Result<Self, Failure> {
        let known = boards::builtin().map_err(|error| Failure::new(ExitCode::Internal, error.to_string()))?;
        let seen = Seen::of(SystemHost::new(root))?;
        let devices = seen.scan.devices.iter().cloned().zip(seen.holders.iter().cloned());
        let devices = devices.filter(|(device, _)| may_be_a_board(device));
        let subjects = devices.map(|(device, holders)| Subject::found(device, holders, &known)).collect();
        Ok(Self { seen, root: root.to_owned(), subjects })
    }

    /// Whether there is no board.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// The directories that were read, or found missing.
    pub fn looked_at(&self) -> impl Iterator<Item = &Path> {
        self.seen.scan.looked_at.iter().map(PathBuf::as_path)
    }

    /// What `ask` makes of each board, in their order.
    pub fn ask<T: Send>(&self, ask: impl Fn(&dyn Host, &Subject) -> T + Sync) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(self.subjects.len()));
        let worker = || {
            while let Some((index, subject)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                self.subjects.get(index).map(|subject| (index, subject))
            } {
                let answer = self.on_its_host(subject, &ask);
                done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, answer));
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.subjects.len().min(AT_ONCE) {
                scope.spawn(worker);
            }
            worker();
        });
        let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, answer)| answer).collect()
    }

    /// A server that cannot be reached must not hide the boards of this host.
    fn on_its_host<T>(&self, subject: &Subject, ask: &impl Fn(&dyn Host, &Subject) -> T) -> T {
        match subject {
            Subject::Board(target) if is_remote(&target.selectors) => {
                let (host, _) = SystemHost::new(&self.root).with_selectors(target.selectors.clone());
                ask(&host, subject)
            }
            _ => ask(&self.seen, subject),
        }
    }
}

fn is_remote(selectors: &[Selector]) -> bool {
    selectors.iter().any(|selector| matches!(selector, Selector::Tcp(_) | Selector::Usbip { .. }))
}

impl Seen {
    fn of(host: SystemHost) -> Result<Self, Failure> {
        let scan = host.scan().map_err(|error| Failure::new(detect::exit(&error), error.to_string()))?;
        let holders = host.holders_of(&scan.devices);
        Ok(Self { host, scan, holders })
    }
}

impl Host for Seen {
    fn clock(&self) -> &dyn Clock {
        self.host.clock()
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        Ok(self.scan.clone())
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        self.host.open_serial(device, baud)
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        self.host.open_usb(device)
    }

    fn holders(&self, device: &Device) -> Holders {
        let at = self.scan.devices.iter().position(|seen| seen == device);
        at.and_then(|at| self.holders.get(at)).cloned().unwrap_or_else(|| self.host.holders(device))
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        self.host.lock(device)
    }
}
