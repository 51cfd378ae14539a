//! A stream that claims to be Katapult's: what the decoder makes of it does not depend on how it was cut, and nothing
//! is kept of it but the beginning of one frame.

#![no_main]

use kflash::proto::katapult::frame::{Decoder, Event};
use libfuzzer_sys::fuzz_target;

fn events(stream: &[u8], chunk: usize) -> Vec<Event> {
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    for part in stream.chunks(chunk) {
        decoder.push(part);
        events.extend(std::iter::from_fn(|| decoder.pop()));
    }
    events
}

fuzz_target!(|data: &[u8]| {
    let Some((&chunk, stream)) = data.split_first() else { return };
    let events_cut = events(stream, usize::from(chunk).max(1));
    assert_eq!(events_cut, events(stream, 1));
    for event in events_cut {
        if let Event::Frame(frame) = event {
            let words = (frame.payload.len() / 4) as u8;
            let bytes = [&[0x01, 0x88, frame.code, words], &frame.payload[..]].concat();
            assert!(stream.windows(bytes.len()).any(|window| window == bytes));
        }
    }
});
