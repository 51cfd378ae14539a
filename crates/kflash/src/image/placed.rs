//! An image at its final address.

use super::{Format, Image, MAX_FILE};
use crate::addr::{FlashAddr, FlashRange, FlashSize};

/// An image at its final address, as one run of bytes. Gaps between segments are `ff`, as erased flash; those of an ELF
/// are zeros, as in the .bin that is made of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PlacedImage {
    start: FlashAddr,
    data: Vec<u8>,
}

/// Why an image cannot lie where it is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The file carries addresses of its own.
    #[error("the image is linked to start at {own} and cannot be placed at {asked}")]
    OtherStart {
        /// As the file says.
        own: FlashAddr,
        /// As asked for.
        asked: FlashAddr,
    },
    /// It would pass the end of the address space.
    #[error("{size} bytes at {start} pass the end of the address space")]
    PastEnd {
        /// As asked for.
        start: FlashAddr,
        /// The image's length.
        size: usize,
    },
    /// Its segments are too far apart to be one image.
    #[error("the image spans {0}: more than {max} MiB", max = MAX_FILE >> 20)]
    TooFarApart(FlashRange),
}

impl Image {
    /// The image at `start`. One whose file carries addresses can only lie where they say.
    pub fn placed(&self, start: FlashAddr) -> Result<PlacedImage, PlaceError> {
        let range = self.range();
        if self.format != Format::Bin && start != range.start {
            return Err(PlaceError::OtherStart { own: range.start, asked: start });
        }
        if range.size.0 as usize > MAX_FILE {
            return Err(PlaceError::TooFarApart(range));
        }
        // `objcopy -O binary` fills with zeros where no --gap-fill is given (GNU binutils). Klipper's build has such a gap before .data:
        // a board that holds klipper.bin holds klipper.elf, too.
        let gap = if self.format == Format::Elf { 0 } else { 0xff };
        let mut data = vec![gap; range.size.0 as usize];
        for segment in &self.segments {
            let at = (segment.addr.0 - range.start.0) as usize;
            data[at..at + segment.data.len()].copy_from_slice(&segment.data);
        }
        PlacedImage::new(start, data).ok_or(PlaceError::PastEnd { start, size: range.size.0 as usize })
    }
}

impl PlacedImage {
    /// `data` at `start`; `None` if it is empty or would pass the end of the address space.
    pub fn new(start: FlashAddr, data: Vec<u8>) -> Option<Self> {
        let size = u32::try_from(data.len()).ok().filter(|&size| size > 0)?;
        FlashRange::new(start, FlashSize(size))?;
        Some(Self { start, data })
    }

    /// Where it lies.
    pub fn range(&self) -> FlashRange {
        FlashRange { start: self.start, size: FlashSize(self.data.len() as u32) }
    }

    /// Its bytes within `range`, with `ff` where the image has none.
    pub fn bytes(&self, range: FlashRange) -> Vec<u8> {
        let mut bytes = vec![0xff; range.size.0 as usize];
        let own = self.range();
        let (from, to) = (range.start.max(own.start), range.end().min(own.end()));
        if from < to {
            let source = (from.0 - own.start.0) as usize..(to.0 - own.start.0) as usize;
            let at = (from.0 - range.start.0) as usize;
            bytes[at..at + source.len()].copy_from_slice(&self.data[source]);
        }
        bytes
    }
}

impl std::fmt::Debug for PlacedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlacedImage({})", self.range())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_the_data_and_ff_around_it(
            start in 0u32..300, data in prop::collection::vec(any::<u8>(), 1..200), from in 0u32..600, size in 0u32..300,
        ) {
            let placed = PlacedImage::new(FlashAddr(start), data.clone()).unwrap();
            let bytes = placed.bytes(FlashRange { start: FlashAddr(from), size: FlashSize(size) });
            prop_assert_eq!(bytes.len(), size as usize);
            for (addr, byte) in (from..).zip(bytes) {
                let own = addr.checked_sub(start).and_then(|at| data.get(at as usize)).copied();
                prop_assert_eq!(byte, own.unwrap_or(0xff));
            }
        }
    }

    #[test]
    fn an_image_never_passes_the_end_of_the_address_space() {
        assert!(PlacedImage::new(FlashAddr(u32::MAX - 1), vec![0; 2]).is_none());
        assert!(PlacedImage::new(FlashAddr(u32::MAX - 2), vec![0; 2]).is_some());
        assert!(PlacedImage::new(FlashAddr(0), Vec::new()).is_none());
    }
}
