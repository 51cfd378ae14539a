//! The values of an enumeration. Ranges stay ranges: three numbers of a hostile dictionary name billions of values.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Missing values that are named; more are counted.
const MOST_NAMED: usize = 6;

/// Names by what precedes their number, as ranges of numbers; names without a number as they are.
#[derive(Default)]
struct Names<'a> {
    plain: BTreeSet<&'a str>,
    /// From and to, not included.
    ranges: BTreeMap<&'a str, Vec<(u64, u64)>>,
}

/// Whether klippy can read it: a number, or the first of a range and its length.
pub(super) fn is_readable(value: &Value) -> bool {
    value.is_i64()
        || matches!(value.as_array().map(Vec::as_slice), Some([first, count]) if first.is_i64() && count.is_i64())
}

/// The first names of `here` that `there` lacks, and how many there are beside those.
pub(super) fn missing(here: &BTreeMap<String, Value>, there: &BTreeMap<String, Value>) -> (Vec<String>, u64) {
    let (here, there) = (Names::of(here), Names::of(there));
    let (mut named, mut more) = (Vec::new(), 0_u64);
    for name in here.plain.difference(&there.plain) {
        note(&mut named, &mut more, (*name).to_owned());
    }
    for (root, ranges) in &here.ranges {
        let has = there.ranges.get(root).map(Vec::as_slice).unwrap_or_default();
        for (from, to) in ranges.iter().flat_map(|range| without(*range, has)) {
            let mut at = from;
            while at < to && named.len() < MOST_NAMED {
                note(&mut named, &mut more, format!("{root}{at}"));
                at += 1;
            }
            more = more.saturating_add(to - at);
        }
    }
    (named, more)
}

fn note(named: &mut Vec<String>, more: &mut u64, name: String) {
    if named.len() < MOST_NAMED { named.push(name) } else { *more = more.saturating_add(1) }
}

/// What of a range none of the sorted, separate ranges in `has` covers.
fn without((mut from, to): (u64, u64), has: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let first = has.partition_point(|range| range.1 <= from);
    let mut left = Vec::new();
    for range in &has[first..] {
        if range.0 >= to {
            break;
        }
        if from < range.0 {
            left.push((from, range.0));
        }
        from = range.1;
    }
    if from < to {
        left.push((from, to));
    }
    left
}

impl<'a> Names<'a> {
    fn of(values: &'a BTreeMap<String, Value>) -> Self {
        let mut names = Self::default();
        for (name, value) in values {
            let root = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let digits = &name[root.len()..];
            let number = digits.parse::<u64>().ok();
            match value.as_array().map(Vec::as_slice) {
                // A range counts from the number, or from 0 without one.
                Some([_, count]) => match number.or(digits.is_empty().then_some(0)) {
                    Some(from) => names.range(root, from, count.as_u64().unwrap_or(0)),
                    None => names.plain(name),
                },
                _ => match number.filter(|&number| number < u64::MAX && number.to_string() == digits) {
                    Some(number) => names.range(root, number, 1),
                    None => names.plain(name),
                },
            }
        }
        for ranges in names.ranges.values_mut() {
            ranges.sort_unstable();
            let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
            for range in ranges.drain(..) {
                match joined.last_mut() {
                    Some(last) if range.0 <= last.1 => last.1 = last.1.max(range.1),
                    _ => joined.push(range),
                }
            }
            *ranges = joined;
        }
        names
    }

    fn plain(&mut self, name: &'a str) {
        self.plain.insert(name);
    }

    fn range(&mut self, root: &'a str, from: u64, count: u64) {
        if count > 0 {
            self.ranges.entry(root).or_default().push((from, from.saturating_add(count)));
        }
    }
}
