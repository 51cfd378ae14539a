//! One pool of jobs for all makes of a run, by the protocol of GNU make's job server (GNU make manual, 13.1): every make
//! runs one job by right, and takes a byte out of a pipe for each further one.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// The pipe. It is inherited by every child, as make takes it by number.
#[derive(Debug)]
pub struct JobServer {
    read: OwnedFd,
    write: OwnedFd,
}

impl JobServer {
    /// A pool with `spare` jobs beside the one that each make has by right.
    pub fn new(spare: usize) -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe()?;
        let pool = Self { read, write };
        for _ in 0..spare {
            pool.give()?;
        }
        Ok(pool)
    }

    /// One more job for whoever still runs: a make that ended, and none follows it.
    pub fn give(&self) -> io::Result<()> {
        Ok(rustix::io::write(&self.write, b"+").map(drop)?)
    }

    /// What `MAKEFLAGS` has to say.
    pub fn makeflags(&self) -> String {
        format!("-j --jobserver-auth={},{}", self.read.as_raw_fd(), self.write.as_raw_fd())
    }
}
