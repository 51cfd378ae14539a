//! Whether running firmware serves the host that a tree belongs to: the dictionary that it reports against the one that
//! this tree builds for the same board. Versions do not tell: most commits change neither, and some change both.
//!
//! How klippy uses a dictionary (Klipper klippy/{msgproto,mcu,clocksync,serialhdl,stepper}.py and klippy/extras/@84104bbb,
//! Kalico alike @f2532ee3):
//!
//! * Commands and responses are looked up by name, and the whole format must be equal to the letter; else klippy stops
//!   with an MCU protocol error. Most are looked up only where printer.cfg has something that uses them. What
//!   the firmware has on top is never looked up. Ids, and the values of constants, are taken from the running firmware.
//! * For a few formats klippy accepts the predecessor. That is temporary, and good for some uses of a feature and not for
//!   others: such a format counts as changed here.
//! * A parameter is given by name where it, or what follows an underscore in it, is an enumeration. A name that the running
//!   firmware does not know stops klippy, and so does an enumeration that appears or vanishes.
//! * One message of a form that klippy does not know, even one that it never uses, and no dictionary is read at all.

mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::dictionary::Dictionary;

/// What the comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The running firmware is what the tree builds.
    Current,
    /// It is other firmware, and has everything that the host may look up.
    Compatible,
    /// It lacks something that the host may look up.
    MustFlash,
    /// The two cannot be compared.
    Unknown,
}

/// A verdict with what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compatibility {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not better; what every host needs comes first.
    pub reasons: Vec<Reason>,
}

/// A difference that the host may notice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// Who notices it.
    pub needed: Needed,
    /// What it is.
    pub difference: Difference,
}

/// Who needs what is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needed {
    /// Every host, whatever it prints with.
    Always,
    /// A host whose printer.cfg uses what it is for.
    WhereUsed,
}

/// A command that the host sends, or a response that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// From host to firmware.
    Command,
    /// From firmware to host.
    Response,
}

/// A difference. Strings are of dictionaries: show them only through `escape_debug`, as `Display` does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Another MCU: another board, or another dictionary than meant.
    Mcu {
        /// What the running firmware names.
        running: String,
        /// What the tree builds for.
        tree: String,
    },
    /// Firmware of another project: what equal formats mean there was never compared.
    App {
        /// What runs.
        running: String,
        /// What the tree is.
        tree: String,
    },
    /// The running firmware has a message of this name and another form.
    Changed {
        /// Which way it goes.
        kind: Kind,
        /// Its format in the tree.
        format: String,
        /// The running firmware's.
        running: String,
    },
    /// It has no such message.
    Missing {
        /// Which way it goes.
        kind: Kind,
        /// Its format in the tree.
        format: String,
    },
    /// The host does not understand a message of the running firmware, and so none of it.
    Malformed {
        /// Its format there.
        format: String,
    },
    /// The running firmware lacks a constant.
    ConstantMissing {
        /// Its name.
        name: String,
    },
    /// It has the constant as something that the host cannot read.
    ConstantUnreadable {
        /// Its name.
        name: String,
    },
    /// A parameter takes its values from other enumerations.
    Parameter {
        /// Its name.
        name: String,
    },
    /// An enumeration lacks values.
    Values {
        /// The enumeration's name.
        enumeration: String,
        /// The first of the values.
        missing: Vec<String>,
        /// How many there are beside those.
        more: u64,
    },
    /// An enumeration has a form that the host cannot read.
    EnumerationUnreadable {
        /// Its name.
        name: String,
    },
}

/// Messages that every klippy uses before it looks into printer.cfg, or without which it can tell nothing of the MCU.
const ALWAYS: &[&str] = &[
    "allocate_oids",
    "clock",
    "config",
    "emergency_stop",
    "finalize_config",
    "get_clock",
    "get_config",
    "get_uptime",
    "identify",
    "identify_response",
    "is_shutdown",
    "shutdown",
    "starting",
    "stats",
    "uptime",
];
/// Messages that klippy never looks up: a person at its console types them, and scripts that flash SD cards use them.
const NEVER: &[&str] = &["config_sdio", "debug_nop", "debug_ping", "debug_write", "pong"];
const NEVER_PREFIX: &str = "sdio_";
/// Constants that klippy reads at every start.
const CONSTANTS_ALWAYS: &[&str] = &["CLOCK_FREQ", "STATS_SUMSQ_BASE"];
/// Constants that it can do without, having an answer for their absence, or never reads.
const CONSTANTS_OPTIONAL: &[&str] = &[
    "CANBUS_BRIDGE",
    "CANBUS_FREQUENCY",
    "INITIAL_PINS",
    "RECEIVE_WINDOW",
    "SERIAL_BAUD",
    "STEPPER_BOTH_EDGE",
    "STEPPER_OPTIMIZED_EDGE",
    "STEPPER_OPTIMIZED_UNSTEP",
    "STEPPER_STEP_BOTH_EDGE",
];
/// Constants that list pins, for klippy to keep free.
const PIN_LISTS: [&str; 2] = ["BUS_PINS_", "RESERVE_PINS_"];
/// What a firmware says went wrong: klippy shows it, known or not.
const TEXTS: &str = "static_string_id";
/// The types of parameters.
const TYPES: &[&str] = &["%u", "%i", "%hu", "%hi", "%c", "%s", "%.*s", "%*s"];
/// A message block holds 64 bytes: no name of a parameter is longer.
const LONGEST_NAME: usize = 128;

/// Compares what runs with what the tree builds for the same board. Never [`Verdict::Compatible`] where the host may look
/// up something that the running firmware lacks.
pub fn compare(running: &Dictionary, tree: &Dictionary) -> Compatibility {
    if running.sha256 == tree.sha256 {
        return Compatibility { verdict: Verdict::Current, reasons: Vec::new() };
    }
    let name = |mcu: Option<&str>| mcu.unwrap_or("none").to_owned();
    if running.mcu() != tree.mcu() {
        let difference = Difference::Mcu { running: name(running.mcu()), tree: name(tree.mcu()) };
        let reasons = vec![Reason { needed: Needed::Always, difference }];
        return Compatibility { verdict: Verdict::Unknown, reasons };
    }
    let mut found = BTreeSet::new();
    let both = messages(running, tree, &mut found);
    constants(running, tree, &mut found);
    parameters(running, tree, &both, &mut found);
    let mut verdict = if found.is_empty() { Verdict::Compatible } else { Verdict::MustFlash };
    if running.app != tree.app {
        verdict = Verdict::Unknown;
        found.insert(always(Difference::App { running: running.app.clone(), tree: tree.app.clone() }));
    }
    Compatibility { verdict, reasons: found.into_iter().collect() }
}

fn always(difference: Difference) -> Reason {
    Reason { needed: Needed::Always, difference }
}

fn where_used(difference: Difference) -> Reason {
    Reason { needed: Needed::WhereUsed, difference }
}

/// The name of a message.
fn name(format: &str) -> &str {
    format.split_ascii_whitespace().next().unwrap_or_default()
}

/// The formats that both have.
fn messages<'a>(running: &'a Dictionary, tree: &'a Dictionary, found: &mut BTreeSet<Reason>) -> Vec<&'a str> {
    let of = |dictionary: &'a Dictionary| {
        let commands = dictionary.commands.keys().map(|format| (Kind::Command, format.as_str()));
        commands.chain(dictionary.responses.keys().map(|format| (Kind::Response, format.as_str())))
    };
    // A tree's host knows the types that its own firmware uses, new ones among them.
    let types: BTreeSet<_> = TYPES
        .iter()
        .copied()
        .chain(of(tree).flat_map(|(_, format)| fields(format)).filter_map(|field| field.1))
        .collect();
    // Names are one space for commands and responses.
    let mut named: BTreeMap<&str, Vec<(Kind, &str)>> = BTreeMap::new();
    for (kind, format) in of(running) {
        named.entry(name(format)).or_default().push((kind, format));
        let known =
            |(name, of): (&str, Option<&str>)| name.len() <= LONGEST_NAME && of.is_some_and(|of| types.contains(of));
        if name(format).is_empty() || !fields(format).all(known) {
            found.insert(always(Difference::Malformed { format: format.to_owned() }));
        }
    }
    let mut both = Vec::new();
    for (kind, format) in of(tree) {
        let name = name(format);
        let there = named.get(name).map(Vec::as_slice).unwrap_or_default();
        if there == [(kind, format)] {
            both.push(format);
            continue;
        }
        if NEVER.contains(&name) || name.starts_with(NEVER_PREFIX) {
            continue;
        }
        let needed = if ALWAYS.contains(&name) { Needed::Always } else { Needed::WhereUsed };
        let format = format.to_owned();
        let difference = match there.iter().find(|(_, other)| *other != format).or(there.first()) {
            None => Difference::Missing { kind, format },
            Some(&(_, running)) => Difference::Changed { kind, format, running: running.to_owned() },
        };
        found.insert(Reason { needed, difference });
    }
    both
}

/// The parameters of a format with their types; `None` where one is not of the form `name=type`.
fn fields(format: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    format.split_ascii_whitespace().skip(1).map(|field| match field.split_once('=') {
        Some((name, of)) => (name, Some(of)),
        None => (field, None),
    })
}

fn constants(running: &Dictionary, tree: &Dictionary, found: &mut BTreeSet<Reason>) {
    let is_pins = |name: &str| PIN_LISTS.iter().any(|prefix| name.starts_with(prefix));
    let reason = |name: &str, difference| {
        if CONSTANTS_ALWAYS.contains(&name) { always(difference) } else { where_used(difference) }
    };
    for (name, value) in &tree.config {
        let there = running.config.get(name);
        if there.is_none() && !is_pins(name) && !CONSTANTS_OPTIONAL.contains(&name.as_str()) {
            found.insert(reason(name, Difference::ConstantMissing { name: name.clone() }));
        }
        if number(value) && there.is_some_and(|there| !number(there)) {
            found.insert(reason(name, Difference::ConstantUnreadable { name: name.clone() }));
        }
    }
    for (name, value) in &running.config {
        let optional = CONSTANTS_OPTIONAL.contains(&name.as_str()) && name != "INITIAL_PINS";
        if (is_pins(name) && !value.is_string()) || (optional && !number(value)) {
            found.insert(always(Difference::ConstantUnreadable { name: name.clone() }));
        }
    }
}

/// Whether the host can take it for a number.
fn number(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::String(text) => text.trim().parse::<f64>().is_ok(),
        _ => false,
    }
}

/// What the parameters of the formats that both have take by name.
fn parameters(running: &Dictionary, tree: &Dictionary, both: &[&str], found: &mut BTreeSet<Reason>) {
    for (name, values) in &running.enumerations {
        if !values.iter().all(|(_, value)| values::is_readable(value)) {
            found.insert(always(Difference::EnumerationUnreadable { name: name.clone() }));
        }
    }
    let parameters: BTreeSet<_> = both.iter().flat_map(|format| fields(format)).map(|(name, _)| name).collect();
    let mut used = BTreeSet::new();
    for parameter in parameters {
        let (here, there) = (enumerations(tree, parameter), enumerations(running, parameter));
        if here == there {
            used.extend(here);
        } else {
            found.insert(where_used(Difference::Parameter { name: parameter.to_owned() }));
        }
    }
    for enumeration in used.into_iter().filter(|enumeration| *enumeration != TEXTS) {
        let (Some(here), Some(there)) = (tree.enumerations.get(enumeration), running.enumerations.get(enumeration))
        else {
            continue;
        };
        let (missing, more) = values::missing(here, there);
        if !missing.is_empty() {
            let enumeration = enumeration.to_owned();
            found.insert(where_used(Difference::Values { enumeration, missing, more }));
        }
    }
}

/// The enumerations that a parameter may take its values from.
fn enumerations<'a>(dictionary: &'a Dictionary, parameter: &str) -> BTreeSet<&'a str> {
    let tails = parameter.match_indices('_').map(|(at, _)| &parameter[at + 1..]);
    let names = std::iter::once(parameter).chain(tails);
    names.filter_map(|name| dictionary.enumerations.get_key_value(name)).map(|(name, _)| name.as_str()).collect()
}

impl Verdict {
    /// In words, for a person.
    pub fn words(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Compatible => "update available, compatible",
            Self::MustFlash => "must be flashed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "command",
            Self::Response => "response",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| text.escape_debug().to_string();
        match self {
            Self::Mcu { running, tree } => {
                write!(f, "the running firmware is for {}, the tree's for {}", text(running), text(tree))
            }
            Self::App { running, tree } => {
                write!(
                    f,
                    "{} runs, the tree is {}'s: what they mean by their formats may differ",
                    text(running),
                    text(tree)
                )
            }
            Self::Missing { kind, format } => write!(f, "no {kind} {}", text(format)),
            Self::Changed { kind, format, running } if format == running => {
                write!(f, "{kind} {} exists twice, or as the other of command and response", text(format))
            }
            Self::Changed { kind, format, running } => {
                write!(f, "{kind} {} is {} in the tree", text(running), text(format))
            }
            Self::Malformed { format } => write!(f, "{} is of a form that the host does not know", text(format)),
            Self::ConstantMissing { name } => write!(f, "no constant {}", text(name)),
            Self::ConstantUnreadable { name } => write!(f, "the constant {} is not what the host expects", text(name)),
            Self::Parameter { name } => write!(f, "the parameter {} takes other values", text(name)),
            Self::Values { enumeration, missing, more } => {
                let names: Vec<_> = missing.iter().map(|name| text(name)).collect();
                let more = if *more > 0 { format!(" and {more} more") } else { String::new() };
                write!(f, "no {} {}{more}", text(enumeration), names.join(", "))
            }
            Self::EnumerationUnreadable { name } => {
                write!(f, "the enumeration {} is not what the host expects", text(name))
            }
        }
    }
}

#[cfg(test)]
mod tests;
