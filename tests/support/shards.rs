//! Shards: drawn by the library, or packed by hand with everything that a tar should not hold.

use std::{
    collections::HashMap,
    io::Cursor,
    sync::{Mutex, PoisonError},
};

use image::{DynamicImage, ImageFormat, RgbImage};
use recaption::scenes;
use tar::{Builder, EntryType, Header};

/// Seed of all scenes in the stories.
pub(crate) const SEED: u64 = 20_231_019;

/// A shard of scenes; drawing takes a millisecond a scene, so each is drawn once.
pub(crate) fn scenes(shard: u32, count: u32) -> Vec<u8> {
    type Drawn = HashMap<(u32, u32), Vec<u8>>;
    static DRAWN: Mutex<Option<Drawn>> = Mutex::new(None);
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let drawn = drawn.get_or_insert_default();
    let draw = || {
        scenes::write_shard(Vec::new(), SEED, shard, count, scenes::TextKind::Alt)
            .expect("scenes can be drawn")
    };
    drawn.entry((shard, count)).or_insert_with(draw).clone()
}

/// The picture of scene `n`, which no shard of [`scenes`] holds.
pub(crate) fn picture(n: u64) -> RgbImage {
    let (scene, _) = scenes::sample(SEED + 1, n);
    scenes::draw(&scene, scenes::IMAGE_SIZE)
}

/// That picture as a file.
pub(crate) fn encoded(n: u64, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(picture(n)).write_to(&mut file, format).expect("pictures can be encoded");
    file.into_inner()
}

/// That picture as a JPEG.
pub(crate) fn jpeg(n: u64) -> Vec<u8> {
    encoded(n, ImageFormat::Jpeg)
}

/// A JPEG whose header claims another size.
pub(crate) fn jpeg_claiming(n: u64, width: u16, height: u16) -> Vec<u8> {
    let mut bytes = jpeg(n);
    let frame =
        bytes.windows(2).position(|pair| matches!(pair, [0xFF, 0xC0..=0xC2])).expect("a frame header");
    // Marker, length, precision; then height and width.
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

/// A tar in the making.
pub(crate) struct Pack {
    tar: Builder<Vec<u8>>,
}

impl Pack {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { tar: Builder::new(Vec::new()) }
    }

    /// Adds a file. The name goes in as it is: `..`, absolute, whatever the header holds.
    pub(crate) fn file(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.member(name, EntryType::Regular, bytes.as_ref())
    }

    /// Adds a directory.
    pub(crate) fn directory(self, name: &str) -> Self {
        self.member(name, EntryType::Directory, b"")
    }

    /// Adds a file with a name as GNU tar writes long ones.
    pub(crate) fn gnu_long_file(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        assert!(name.len() > 100, "a shorter name would not be a long one");
        let bytes = bytes.as_ref();
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, name, bytes).expect("members can be packed");
        self
    }

    /// Adds a file whose name is in a PAX header; the tar header beneath has another.
    pub(crate) fn pax_file(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.tar.append_pax_extensions([("path", name.as_bytes())]).expect("PAX records can be packed");
        self.file("superseded.bin", bytes)
    }

    /// Adds a hard or symbolic link.
    pub(crate) fn link(mut self, name: &str, kind: EntryType, target: &str) -> Self {
        let mut header = header(name, kind, 0);
        header.set_link_name_literal(target).expect("a short target");
        header.set_cksum();
        self.tar.append(&header, &b""[..]).expect("members can be packed");
        self
    }

    fn member(mut self, name: &str, kind: EntryType, bytes: &[u8]) -> Self {
        let mut header = header(name, kind, bytes.len() as u64);
        header.set_cksum();
        self.tar.append(&header, bytes).expect("members can be packed");
        self
    }

    /// The whole archive.
    pub(crate) fn close(self) -> Vec<u8> {
        self.tar.into_inner().expect("an archive can be closed")
    }
}

fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    // Directly: the crate's own setters refuse `..`.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header
}
