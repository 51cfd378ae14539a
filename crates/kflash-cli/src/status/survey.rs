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
pub struct Survey<'a> {
    seen: Seen,
    root: PathBuf,
    subjects: Vec<Subject<'a>>,
}

/// A host as it was when it was looked at: twenty boards take one walk through sysfs and one through /proc.
struct Seen {
    host: SystemHost,
    scan: Scan,
    holders: Vec<Holders>,
}

impl<'a> Survey<'a> {
    /// These boards; with `others`, every other board of the host, too.
    pub fn of(root: &Path, mut subjects: Vec<Subject<'a>>, others: bool) -> Result<Self, Failure> {
        let is_local = |subject: &&mut Subject<'_>| !is_remote(subject.selectors());
        let local = subjects.iter_mut().filter(is_local).flat_map(|subject| subject.selectors().to_vec()).collect();
        let (host, resolved) = SystemHost::new(root).with_selectors(local);
        let mut resolved = resolved.into_iter();
        for subject in subjects.iter_mut().filter(is_local) {
            if let Subject::Board(target) = subject {
                target.selectors = resolved.by_ref().take(target.selectors.len()).collect();
            }
        }
        let seen = Seen::of(host)?;
        if others {
            let known = boards::builtin().map_err(|error| Failure::new(ExitCode::Internal, error.to_string()))?;
            let taken: Vec<_> = subjects.iter().filter_map(|subject| subject.place_in(&seen.scan)).collect();
            for (device, holders) in seen.scan.devices.iter().zip(&seen.holders) {
                if may_be_a_board(device) && !taken.contains(&device.place) {
                    subjects.push(Subject::found(device.clone(), holders.clone(), &known));
                }
            }
        }
        Ok(Self { seen, root: root.to_owned(), subjects })
    }

    /// The boards.
    pub fn subjects(&self) -> &[Subject<'a>] {
        &self.subjects
    }

    /// The directories that were read, or found missing.
    pub fn looked_at(&self) -> impl Iterator<Item = &Path> {
        self.seen.scan.looked_at.iter().map(PathBuf::as_path)
    }

    /// What `ask` makes of each board, in their order.
    pub fn ask<T: Send>(&self, ask: impl Fn(&dyn Host, &Subject<'a>) -> T + Sync) -> Vec<T> {
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
    fn on_its_host<T>(&self, subject: &Subject<'a>, ask: &impl Fn(&dyn Host, &Subject<'a>) -> T) -> T {
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
