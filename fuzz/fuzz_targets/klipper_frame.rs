//! A stream that claims to be Klipper's: every block that comes out is one that Klipper could have sent, and a block
//! behind any noise is found once the line has been quiet.

#![no_main]

use kflash::klipper::frame::{Block, Decoder, MAX_CONTENT, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&chunk, stream)) = data.split_first() else { return };
    let mut decoder = Decoder::default();
    for part in stream.chunks(usize::from(chunk).max(1)) {
        decoder.push(part);
        while let Some(block) = decoder.pop() {
            let bytes = encode(block.sequence, &block.content);
            assert!(block.content.len() <= MAX_CONTENT);
            assert!(bytes.is_some_and(|bytes| stream.windows(bytes.len()).any(|window| window == bytes)));
        }
    }
    let last = Block { sequence: 9, content: vec![1, 0, 40] };
    decoder.push(&encode(last.sequence, &last.content).unwrap_or_default());
    decoder.end();
    let found = std::iter::from_fn(|| decoder.pop()).last();
    assert_eq!(found, Some(last));
    assert!(decoder.is_empty());
});
