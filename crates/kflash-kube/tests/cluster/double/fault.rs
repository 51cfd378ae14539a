//! What goes wrong on purpose.

use super::request::Asked;

/// Something that goes wrong at one request.
#[derive(Clone, Debug)]
pub struct Fault {
    /// At the n-th request, from 0.
    pub at: usize,
    /// What.
    pub how: How,
}

/// The ways of going wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The connection is cut before the server has done anything.
    CutBefore,
    /// It is done, but the connection is cut before the answer.
    CutAfter,
    /// It is done, but no answer ever comes.
    Hang,
    /// 403, as from a server that has not read the roles yet.
    Forbidden,
    /// 429, with `Retry-After`.
    TooMany,
    /// 500.
    Internal,
    /// 503.
    Unavailable,
    /// The client dies before the request arrives.
    KillBefore,
    /// The client dies after it was done.
    KillAfter,
}

/// The requests so far, and the faults to come.
#[derive(Debug, Default)]
pub struct Faults {
    pub log: Vec<String>,
    pub planned: Vec<Fault>,
}

impl Faults {
    /// Notes a request; what is to go wrong with it.
    pub fn next(&mut self, asked: &Asked) -> Option<How> {
        let number = self.log.len();
        self.log.push(asked.describe());
        self.planned.iter().find(|fault| fault.at == number).map(|fault| fault.how)
    }
}
