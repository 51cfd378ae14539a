//! ELF: what a linker leaves before `objcopy`. The bytes of its LOAD segments belong at their physical addresses: that
//! of `.data` lies in flash, behind the code, while its virtual one is in RAM.

use object::elf::{EM_ARM, EM_AVR, ET_EXEC, FileHeader32, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, FileKind};

use super::Segment;
use super::pieces::{LayoutError, Pieces};

/// Why an ELF file is no firmware.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Headers are cut off or nonsense.
    #[error("{0}")]
    Malformed(String),
    /// 64 bits: a program for a computer.
    #[error("it is a 64-bit program, not firmware for a micro-controller")]
    SixtyFourBit,
    /// For another processor than a micro-controller's.
    #[error("it is for processor type {0}, not for ARM or AVR")]
    Machine(u16),
    /// An object file or a library.
    #[error("it is not linked: an object file or a library")]
    NotLinked,
    /// A segment lies outside the file.
    #[error("segment {0} lies outside the file")]
    Segment(usize),
    /// The segments cannot be laid out in memory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Whether `bytes` start as an ELF does.
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(&object::elf::ELFMAG)
}

/// The LOAD segments of an ELF file at their physical addresses.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let malformed = |error: object::Error| ElfError::Malformed(error.to_string());
    match FileKind::parse(bytes).map_err(malformed)? {
        FileKind::Elf32 => {}
        FileKind::Elf64 => return Err(ElfError::SixtyFourBit),
        _ => return Err(ElfError::Malformed("its header is unknown".to_owned())),
    }
    let header = FileHeader32::<Endianness>::parse(bytes).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    match header.e_machine(endian) {
        EM_ARM | EM_AVR => {}
        other => return Err(ElfError::Machine(other.0)),
    }
    if header.e_type(endian) != ET_EXEC {
        return Err(ElfError::NotLinked);
    }
    let mut pieces = Pieces::default();
    for (index, segment) in header.program_headers(endian, bytes).map_err(malformed)?.iter().enumerate() {
        if segment.p_type(endian) == PT_LOAD {
            let data = segment.data(endian, bytes).map_err(|()| ElfError::Segment(index))?;
            pieces.push(segment.p_paddr(endian), data)?;
        }
    }
    Ok(pieces.finish()?)
}
