//! Files that people pass by mistake, told by their content.

use serde::Serialize;

/// What a file is instead of firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Mistake {
    /// `klipper.dict`.
    #[error(
        "it is a data dictionary (klipper.dict); the firmware is klipper.bin, klipper.uf2 or klipper.elf.hex beside it"
    )]
    Dictionary,
    /// Other JSON.
    #[error("it is JSON, not firmware")]
    Json,
    /// A Kconfig file.
    #[error("it is a build configuration (.config), from which firmware has to be built first")]
    Config,
    /// A page of a web site, often saved in place of the file it shows.
    #[error("it is a web page: download the raw file")]
    WebPage,
    /// Motorola S-records.
    #[error("it holds Motorola S-records, which are not supported: convert them to Intel HEX or a plain binary")]
    SRecord,
    /// Any other text.
    #[error("it is text, not firmware")]
    Text,
    /// gzip, zip, xz, bzip2, zstd, 7z.
    #[error("it is a compressed file: unpack it first")]
    Compressed,
    /// ST's .dfu container.
    #[error("it is a DfuSe container (.dfu), which is not supported: use the plain binary")]
    DfuSe,
    /// Every byte is the same.
    #[error("every one of its bytes is {0:#04x}")]
    Constant(u8),
}

/// First bytes of compressed files.
const COMPRESSED: &[&[u8]] =
    &[&[0x1f, 0x8b], b"PK\x03\x04", b"\xfd7zXZ\0", b"BZh", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c"];

/// What a file without a known container is instead of firmware, if it is plainly something else.
pub(super) fn recognise(bytes: &[u8]) -> Option<Mistake> {
    if COMPRESSED.iter().any(|magic| bytes.starts_with(magic)) {
        return Some(Mistake::Compressed);
    }
    if bytes.starts_with(b"DfuSe") {
        return Some(Mistake::DfuSe);
    }
    let (&first, rest) = bytes.split_first()?;
    if rest.iter().all(|&byte| byte == first) {
        return Some(Mistake::Constant(first));
    }
    if bytes.iter().any(|&byte| byte < 0x20 && !byte.is_ascii_whitespace()) {
        return None;
    }
    Some(kind_of_text(std::str::from_utf8(bytes).ok()?.trim_start_matches('\u{feff}').trim_start()))
}

fn kind_of_text(text: &str) -> Mistake {
    let starts_with_tag =
        |tag: &str| text.as_bytes().get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    let is_setting = |line: &str| line.starts_with("CONFIG_") || line.starts_with("# CONFIG_");
    if text.starts_with('{') {
        let is_dictionary = text.contains("\"identify offset=%u count=%c\"");
        if is_dictionary { Mistake::Dictionary } else { Mistake::Json }
    } else if text.lines().any(is_setting) {
        Mistake::Config
    } else if starts_with_tag("<!doctype") || starts_with_tag("<html") {
        Mistake::WebPage
    } else if text.starts_with("S0") {
        Mistake::SRecord
    } else {
        Mistake::Text
    }
}
