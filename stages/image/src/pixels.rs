//! The pixels of models.

/// A square RGB image of the model's size: u8 in 0..=255, `[S, S, 3]`, row-major, channels in the order red, green, blue.
///
/// Its length is checked at construction.
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

    /// Returns the bytes, `[S, S, 3]` row-major.
    pub fn as_slice(&self) -> &[u8] {
        &self.data
    }

    /// Returns the bytes, `[S, S, 3]` row-major, without a copy.
    pub fn into_vec(self) -> Vec<u8> {
        self.data
    }

    /// Returns the side S, pixels.
    pub fn size(&self) -> u32 {
        self.size
    }
}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pixels([{0}, {0}, 3])", self.size)
    }
}

/// An image at the size of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Input of the model.
    pub pixels: Pixels,
    /// Width of the stored image in pixels, after EXIF orientation.
    pub width: u32,
    /// Height of the stored image in pixels, after EXIF orientation.
    pub height: u32,
}

/// An image at the sizes of several models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInputs {
    /// Inputs of the models, in the order requested.
    pub pixels: Vec<Pixels>,
    /// Width of the stored image in pixels, after EXIF orientation.
    pub width: u32,
    /// Height of the stored image in pixels, after EXIF orientation.
    pub height: u32,
}
