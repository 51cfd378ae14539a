//! "Did you mean": the most similar of some names.

/// The candidate that differs from `word` by the fewest edits, if they are few.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.to_lowercase().chars().take(64).collect();
    let allowed = 1 + word.len() / 4;
    let scored = candidates.map(|candidate| (edits(&word, &candidate.to_lowercase()), candidate));
    scored.filter(|&(edits, _)| edits <= allowed).min().map(|(_, candidate)| candidate)
}

/// Adds a suggestion to serde's ``unknown field `x`, expected one of `a`, `b` ``; other messages pass unchanged.
pub(crate) fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(word) if message.starts_with("unknown ") => match nearest(word, quoted) {
            Some(found) => format!("{message} (did you mean `{found}`?)"),
            None => message.to_owned(),
        },
        _ => message.to_owned(),
    }
}

/// Levenshtein distance.
fn edits(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, b) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, a) in a.iter().enumerate() {
            let replaced = diagonal + usize::from(*a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[a.len()]
}
