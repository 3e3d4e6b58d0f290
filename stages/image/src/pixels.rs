//! What leaves this stage.

/// A square u8 RGB image of the model's size: `[S, S, 3]`, row-major, 0..=255, channels in the order red, green, blue.
///
/// The length is checked once, at construction, and holds ever after.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels {
    size: u32,
    data: Vec<u8>,
}

impl Pixels {
    /// Wraps `data`, `[size, size, 3]` row-major.
    ///
    /// Returns `None` unless `data` holds exactly `size * size * 3` bytes and `size` is at least 1.
    pub fn new(size: u32, data: Vec<u8>) -> Option<Self> {
        let expected = u64::from(size) * u64::from(size) * 3;
        (size > 0 && data.len() as u64 == expected).then_some(Self { size, data })
    }

    /// The bytes, `[S, S, 3]` row-major.
    pub fn as_slice(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, `[S, S, 3]` row-major, without a copy.
    pub fn into_vec(self) -> Vec<u8> {
        self.data
    }

    /// Width and height in pixels.
    pub fn size(&self) -> u32 {
        self.size
    }
}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pixels([{0}, {0}, 3])", self.size)
    }
}

/// An image at the model's size, and how large it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// What the model sees.
    pub pixels: Pixels,
    /// Width of the stored image in pixels, after EXIF orientation.
    pub width: u32,
    /// Height of the stored image in pixels, after EXIF orientation.
    pub height: u32,
}

/// An image at the sizes of several models, and how large it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInputs {
    /// What each model sees, in the order asked for.
    pub pixels: Vec<Pixels>,
    /// Width of the stored image in pixels, after EXIF orientation.
    pub width: u32,
    /// Height of the stored image in pixels, after EXIF orientation.
    pub height: u32,
}
