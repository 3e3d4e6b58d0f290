//! The words of scenes: shapes, colours, backgrounds and sizes.

use serde::{Deserialize, Serialize};

/// Defines an enum whose variants have a name in captions and JSON.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $(#[doc = concat!("\"", $word, "\"")] #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every variant, in the order of the reference generator.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the word for it in captions and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

named! {
    /// The outline of an object.
    Shape {
        Circle = "circle", Square = "square", Triangle = "triangle", Star = "star",
        Cross = "cross", Ring = "ring", Diamond = "diamond", Heart = "heart",
    }
}

named! {
    /// The colour of an object.
    Colour {
        Red = "red", Green = "green", Blue = "blue", Yellow = "yellow",
        Purple = "purple", Orange = "orange", Black = "black", White = "white",
    }
}

named! {
    /// The one flat colour behind all objects. No object has it.
    Background { Grey = "grey", Pink = "pink", Brown = "brown", Teal = "teal" }
}

named! {
    /// How large an object is.
    Size { Small = "small", Large = "large" }
}

impl Colour {
    /// Returns red, green and blue, 0 to 255 each (sRGB).
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [214, 40, 40],
            Self::Green => [46, 160, 67],
            Self::Blue => [38, 84, 214],
            Self::Yellow => [246, 208, 40],
            Self::Purple => [136, 56, 190],
            Self::Orange => [244, 132, 26],
            Self::Black => [24, 24, 24],
            Self::White => [248, 248, 248],
        }
    }
}

impl Background {
    /// Returns red, green and blue, 0 to 255 each (sRGB).
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Grey => [150, 150, 150],
            Self::Pink => [246, 190, 206],
            Self::Brown => [122, 84, 54],
            Self::Teal => [60, 150, 150],
        }
    }
}

impl Size {
    /// Returns the radius of an object, in pixels of a [`REFERENCE_SIZE`](super::REFERENCE_SIZE) image.
    pub const fn radius(self) -> u8 {
        match self {
            Self::Small => 9,
            Self::Large => 15,
        }
    }
}
