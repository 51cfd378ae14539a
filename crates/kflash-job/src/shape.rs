//! The variants of a flash in a cluster.

use std::fmt;
use std::str::FromStr;

/// How the flash is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How the container that flashes reaches the board.
    pub access: Access,
    /// How Klipper is stopped and given back.
    pub quiesce: Quiesce,
    /// Which images the containers run.
    pub images: Images,
    /// Which way the firmware goes to the chip.
    pub via: Via,
    /// For how many seconds the sidecar waits for the end of a print before it refuses.
    pub wait: u32,
    /// The sidecar takes a Moonraker that does not answer for a printer that does nothing.
    pub trusting: bool,
    /// In phases, each with a container of its own: for a board that enumerates anew behind a path of a device plugin.
    pub phased: bool,
    /// The oldest Kubernetes that it has to run on. Only phases depend on it.
    pub kubernetes: Kubernetes,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            access: Access::Privileged,
            quiesce: Quiesce::Sidecar,
            images: Images::default(),
            via: Via::Cable,
            wait: 0,
            trusting: false,
            phased: false,
            kubernetes: Kubernetes::V1_29,
        }
    }
}

/// How the container that flashes reaches the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As root, with the node's `/dev`: nothing less follows a board that re-enumerates.
    Privileged,
    /// As nobody, with one resource of a device plugin: for boards on a UART, which do not re-enumerate, and in phases for
    /// others.
    Unprivileged,
}

/// A version of Kubernetes that brought something that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kubernetes {
    /// Native sidecars.
    V1_29,
    /// They are stable.
    V1_33,
    /// Containers that end with a given exit code are created again in their place.
    V1_35,
}

impl Kubernetes {
    /// What a server of version 1.`minor` has.
    pub fn of_minor(minor: u32) -> Self {
        match minor {
            ..33 => Self::V1_29,
            33..35 => Self::V1_33,
            35.. => Self::V1_35,
        }
    }
}

impl FromStr for Kubernetes {
    type Err = ParseShapeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1.29" => Ok(Self::V1_29),
            "1.33" => Ok(Self::V1_33),
            "1.35" => Ok(Self::V1_35),
            _ => Err(ParseShapeError { given: text.to_owned(), words: "1.29, 1.33, 1.35" }),
        }
    }
}

/// How Klipper is stopped and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiesce {
    /// A sidecar scales it to nothing and back.
    Sidecar,
    /// It gives way to a Job of higher priority that asks for the same token of the printer, and comes back by itself.
    Token,
    /// Not at all: somebody else does.
    None,
}

/// Which way the firmware goes to the chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over the board's own cable, by its bootloader.
    Cable,
    /// Through a debug probe on the chip's SWD pins. What it wrote is confirmed over the board's own cable.
    Swd {
        /// Which probe, where the node has several: VID:PID:SERIAL.
        probe: Option<String>,
    },
}

/// Which images the containers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Where they are: `localhost` for those that were imported on the node.
    pub registry: String,
    /// Their tag.
    pub version: String,
}

impl Default for Images {
    fn default() -> Self {
        Self { registry: "localhost".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

impl Images {
    pub(crate) fn flasher(&self) -> String {
        self.of("kflash")
    }

    /// The same with debug probes.
    pub(crate) fn flasher_through_probes(&self) -> String {
        self.of("kflash-swd")
    }

    pub(crate) fn builder(&self) -> String {
        self.of("kflash-builder")
    }

    pub(crate) fn kube(&self) -> String {
        self.of("kflash-kube")
    }

    fn of(&self, name: &str) -> String {
        format!("{}/{name}:{}", self.registry.trim_end_matches('/'), self.version)
    }
}

/// Not one of the words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of {words}")]
pub struct ParseShapeError {
    given: String,
    words: &'static str,
}

impl FromStr for Access {
    type Err = ParseShapeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "unprivileged" => Ok(Self::Unprivileged),
            _ => Err(ParseShapeError { given: text.to_owned(), words: "privileged, unprivileged" }),
        }
    }
}

impl FromStr for Via {
    type Err = ParseShapeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cable" => Ok(Self::Cable),
            "swd" => Ok(Self::Swd { probe: None }),
            _ => Err(ParseShapeError { given: text.to_owned(), words: "cable, swd" }),
        }
    }
}

impl Via {
    /// The same through this probe, where one is named.
    pub fn with(self, probe: Option<String>) -> Result<Self, ParseShapeError> {
        match (self, probe) {
            (via, None) => Ok(via),
            (Self::Swd { .. }, Some(probe)) => Ok(Self::Swd { probe: Some(probe) }),
            (Self::Cable, Some(_)) => Err(ParseShapeError { given: "cable".to_owned(), words: "swd, with a probe" }),
        }
    }
}

impl FromStr for Quiesce {
    type Err = ParseShapeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sidecar" => Ok(Self::Sidecar),
            "token" => Ok(Self::Token),
            "none" => Ok(Self::None),
            _ => Err(ParseShapeError { given: text.to_owned(), words: "sidecar, token, none" }),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Unprivileged => "unprivileged",
        })
    }
}

impl fmt::Display for Quiesce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sidecar => "sidecar",
            Self::Token => "token",
            Self::None => "none",
        })
    }
}
