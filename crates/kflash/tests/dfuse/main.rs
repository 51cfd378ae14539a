//! The DfuSe driver against what real chips were seen answering (`tests/data/silicon`), and against chips that lie.

#![expect(clippy::unwrap_used, reason = "tests")]

mod chip;
mod facts;
mod hostile;
mod refusals;
mod replay;
mod sequences;
