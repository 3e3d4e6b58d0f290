//! Shapes of a decoder's tensors.

/// The cross-attention keys and values of a decoder, `tensors` times `[N, tokens, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct CrossShape {
    /// Number of tensors: keys and values of all layers.
    pub(in crate::runtime) tensors: usize,
    /// Tokens per image.
    pub(in crate::runtime) tokens: usize,
    /// Width of one token.
    pub(in crate::runtime) width: usize,
}

/// One cache of self-attention keys or values, `[R, heads, L, size]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct CacheShape {
    /// Number of heads.
    pub(in crate::runtime) heads: usize,
    /// Size of one head.
    pub(in crate::runtime) size: usize,
}
