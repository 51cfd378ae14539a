//! Logs of containers.

use std::collections::BTreeMap;
use std::time::Duration;

/// How often a log that is followed is looked at.
pub const LOOK: Duration = Duration::from_millis(50);

/// What a container has written.
#[derive(Clone, Debug, Default)]
pub struct ContainerLog {
    pub lines: Vec<String>,
    /// Nothing more will come.
    pub ended: bool,
}

/// All of them, by pod and container.
#[derive(Debug, Default)]
pub struct Logs {
    all: BTreeMap<(String, String), ContainerLog>,
    /// Cuts the next connection after so many lines.
    pub cut: Option<usize>,
}

impl Logs {
    /// The container's, which is there from now on.
    pub fn of(&mut self, pod: &str, container: &str) -> &mut ContainerLog {
        self.all.entry((pod.to_owned(), container.to_owned())).or_default()
    }

    /// The container's, where it has begun.
    pub fn get(&self, pod: &str, container: &str) -> Option<&ContainerLog> {
        self.all.get(&(pod.to_owned(), container.to_owned()))
    }
}
