//! Exit codes: stable, and the vocabulary of a Job's `podFailurePolicy`.

use serde::{Deserialize, Serialize};

/// How a run ended, as the process's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ExitCode {
    /// Flashed and confirmed, or already current: the board runs the application.
    Ok = 0,
    /// A bug in kflash; the board's state is unknown.
    Internal = 1,
    /// Arguments, configuration or profile are wrong; the board is untouched.
    Usage = 2,
    /// Image, board, bootloader or signature disagree, the device is ambiguous, or the chip is protected; nothing was erased.
    Refused = 3,
    /// No such device.
    NotFound = 4,
    /// The printer prints, or the port or lock is held.
    Busy = 5,
    /// The operating system denies access.
    Denied = 6,
    /// The firmware build failed.
    Build = 7,
    /// The firmware download failed.
    Fetch = 8,
    /// The bootloader could not be entered, or hands are needed and nobody is there.
    Enter = 10,
    /// Failed after the first erase; the board is in its bootloader.
    Write = 11,
    /// The board holds or runs something else than the image; after a write it is in its bootloader.
    Verify = 12,
    /// Written and verified, but the board did not come back as expected.
    Lost = 13,
    /// Stopped by a signal before the first erase.
    Cancelled = 14,
    /// Written and verified, but the returning port was taken before it could be confirmed.
    Taken = 15,
    /// The board re-enumerated: run again in a fresh container.
    Phase = 75,
}

/// Whether running the same command again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Again {
    /// Nothing is left to do.
    Done,
    /// It may help.
    Yes,
    /// It may help once.
    Once,
    /// When what holds the board has let go of it.
    Later,
    /// At once, in a fresh container.
    AtOnce,
    /// It cannot help before something else has changed.
    No,
    /// A person has to look at the board first.
    Person,
}

impl ExitCode {
    /// The process exit status.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code that a process exit status stands for, if it is one of ours.
    pub fn of_code(code: u8) -> Option<Self> {
        let all = [
            Self::Ok,
            Self::Internal,
            Self::Usage,
            Self::Refused,
            Self::NotFound,
            Self::Busy,
            Self::Denied,
            Self::Build,
            Self::Fetch,
            Self::Enter,
            Self::Write,
            Self::Verify,
            Self::Lost,
            Self::Cancelled,
            Self::Taken,
            Self::Phase,
        ];
        all.into_iter().find(|exit| exit.code() == code)
    }

    /// Whether trying again can help.
    pub fn again(self) -> Again {
        match self {
            Self::Ok => Again::Done,
            Self::Internal | Self::NotFound | Self::Fetch | Self::Enter | Self::Write | Self::Cancelled => Again::Yes,
            Self::Usage | Self::Refused | Self::Denied | Self::Build => Again::No,
            Self::Busy | Self::Taken => Again::Later,
            Self::Verify => Again::Once,
            Self::Lost => Again::Person,
            Self::Phase => Again::AtOnce,
        }
    }

    /// The worst of how several boards ended; [`Ok`](Self::Ok) of none. First come boards that may be left without
    /// running firmware, those that need a person before those that need another run; then what cannot go well before
    /// something else has changed; then what may go well later; last what somebody wanted.
    pub fn worst(of: impl IntoIterator<Item = Self>) -> Self {
        of.into_iter().max_by_key(|exit| exit.badness()).unwrap_or(Self::Ok)
    }

    fn badness(self) -> u8 {
        match self {
            Self::Internal => 15,
            Self::Lost => 14,
            Self::Verify => 13,
            Self::Write => 12,
            Self::Taken => 11,
            Self::Phase => 10,
            Self::Enter => 9,
            Self::Build => 8,
            Self::Refused => 7,
            Self::Denied => 6,
            Self::Usage => 5,
            Self::Fetch => 4,
            Self::Busy => 3,
            Self::NotFound => 2,
            Self::Cancelled => 1,
            Self::Ok => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_what_a_person_has_to_see_first() {
        use ExitCode::{
            Build, Busy, Cancelled, Denied, Enter, Fetch, Internal, Lost, NotFound, Ok, Phase, Refused, Taken, Usage,
            Verify, Write,
        };
        let order = [
            Ok, Cancelled, NotFound, Busy, Fetch, Usage, Denied, Refused, Build, Enter, Phase, Taken, Write, Verify,
            Lost, Internal,
        ];
        for pair in order.windows(2) {
            assert_eq!(ExitCode::worst([pair[0], pair[1]]), pair[1]);
            assert_eq!(ExitCode::worst([pair[1], pair[0]]), pair[1]);
        }
        assert_eq!(ExitCode::worst([]), Ok);
        assert_eq!(ExitCode::worst([Ok, Busy, Ok, Write, Refused]), Write);
    }
}
