//! The image encoder of BLIP and ALBEF: a ViT with LayerNorm before each part and once after all of them. The rows of `qkv` are those of
//! query, key and value, one after another.

use crate::{
    checkpoint::{BlipVisionConfig, Normalisation, TensorReader},
    export::{
        blocks::{Block, Stream},
        error::ExportError,
        fold::{add_product, pad_head_columns, pad_head_rows},
        graph::{DType, Dim, Value},
        linear::Linear,
        patches::{self, PatchEmbedding},
        positions::resize_grid,
        tower::Tower,
    },
    model::{IMAGE_TOKENS, IMAGES},
};

/// Names of query, key and value in the weights file.
const PARTS: [&str; 3] = ["q", "k", "v"];

/// Names of a ViT's tensors, which differ between transformers and the authors' code. A layer's MLP is `mlp.fc1` and `mlp.fc2` in both.
pub(in crate::export) struct VitNames {
    /// Class token, `[1, 1, W]`.
    pub(in crate::export) class: &'static str,
    /// Position embeddings, `[1, G * G + 1, W]`.
    pub(in crate::export) positions: &'static str,
    /// Convolution that embeds patches, without `.weight` and `.bias`.
    pub(in crate::export) patch: &'static str,
    /// LayerNorm before all layers, where there is one.
    pub(in crate::export) norm_pre: &'static str,
    /// LayerNorm after all layers.
    pub(in crate::export) norm: &'static str,
    /// Prefix of the layers, without their number.
    pub(in crate::export) layers: &'static str,
    /// LayerNorm before the self-attention of a layer.
    pub(in crate::export) attention_norm: &'static str,
    /// Self-attention of a layer, in which query, key and value are `qkv`.
    pub(in crate::export) attention: &'static str,
    /// Output projection of a self-attention, below it.
    pub(in crate::export) projection: &'static str,
    /// LayerNorm before the MLP of a layer.
    pub(in crate::export) mlp_norm: &'static str,
}

/// A ViT of a checkpoint.
pub(in crate::export) struct Vit<'a> {
    /// Sizes.
    pub(in crate::export) config: &'a BlipVisionConfig,
    /// How pixels are normalised.
    pub(in crate::export) normalisation: Normalisation,
    /// Names of its tensors.
    pub(in crate::export) names: &'a VitNames,
    /// Side of the stored grid of position embeddings; where the image's grid is another, they are interpolated.
    pub(in crate::export) position_grid: usize,
}

impl Vit<'_> {
    /// Adds the input `pixels` u8 `[N, S, S, 3]`, all layers, and the output `image_tokens` f32 `[N, Q, W]`; returns the tokens as rows
    /// `[N * Q, W]`.
    pub(in crate::export) fn tokens(&self, t: &mut Tower<'_>) -> Result<Value, ExportError> {
        let v = self.config;
        t.epsilon = v.epsilon;
        let side = Dim::Fixed(v.image_size);
        let pixels = t.g.input("pixels", DType::U8, &[Dim::Named(IMAGES), side, side, Dim::Fixed(3)]);
        let mut x = Stream::Whole(self.embed(t, &pixels)?);
        for layer in 0..v.layers {
            let block = Block {
                prefix: format!("{}.{layer}", self.names.layers),
                width: v.width,
                heads: v.heads,
                mlp_width: v.mlp_width,
                layer_scale: false,
            };
            x = self.self_attention(t, &block, &x)?;
            x = self.mlp(t, &block, &x)?;
        }
        let (tokens, _) = t.norm_stream(self.names.norm, &x, v.width)?;
        let shape = [Dim::Named(IMAGES), Dim::Fixed(v.tokens()), Dim::Fixed(v.width)];
        let output = t.g.declare_output(IMAGE_TOKENS, DType::F32, &shape);
        let plain = t.cast_to_f32(&tokens);
        let shape = t.g.ints(&[-1, v.tokens() as i64, v.width as i64]);
        t.g.op_into("Reshape", &[&plain, &shape], &output, &[]);
        Ok(tokens)
    }

    /// Reads the position embeddings of the class token and of the image's patches, `[Q, W]`.
    fn positions(&self, r: &TensorReader) -> Result<Vec<f32>, ExportError> {
        let (stored, width) = (self.position_grid, self.config.width);
        let grid = self.config.image_size / self.config.patch_size;
        let mut positions = r.get(self.names.positions, &[1, stored * stored + 1, width])?;
        if stored != grid {
            let patches = resize_grid(&positions[width..], stored, grid);
            positions.truncate(width);
            positions.extend(patches);
        }
        Ok(positions)
    }

    /// Embeds pixels as tokens `[N * Q, W]`: patches, class token, positions.
    fn embed(&self, t: &mut Tower<'_>, pixels: &Value) -> Result<Value, ExportError> {
        let BlipVisionConfig { image_size, patch_size, width, .. } = *self.config;
        let (weight, bias) = (format!("{}.weight", self.names.patch), format!("{}.bias", self.names.patch));
        let embedding = PatchEmbedding {
            image_size,
            patch_size,
            width,
            weight: &weight,
            bias: Some(&bias),
            normalisation: self.normalisation,
        };
        let x = patches::embed(t, &embedding, pixels)?;
        let shape = [self.config.patches(), width];
        let positions = t.derived_weight("visual.patch_positions", &shape, |r| {
            let bias = embedding.folded_bias(r)?;
            let positions = self.positions(r)?;
            Ok(positions[width..].iter().enumerate().map(|(i, p)| p + bias[i % width]).collect())
        })?;
        let class = |r: &TensorReader| {
            let positions = self.positions(r)?;
            Ok(r.get(self.names.class, &[1, 1, width])?.iter().zip(&positions).map(|(c, p)| c + p).collect())
        };
        let x = patches::add_positions_and_class(t, &x, &positions, width, class)?;
        if self.config.norm_pre { t.layer_norm(self.names.norm_pre, &x, width) } else { Ok(x) }
    }

    /// Adds a self-attention; `stream` is `[N * Q, W]`, and so is the result.
    fn self_attention(
        &self,
        t: &mut Tower<'_>,
        block: &Block,
        stream: &Stream,
    ) -> Result<Stream, ExportError> {
        let (w, inner) = (block.width, block.heads * block.padded());
        let (dim, padded) = (block.head_dim(), block.padded());
        let norm = format!("{}.{}", block.prefix, self.names.attention_norm);
        let (normed, x) = t.norm_stream(&norm, stream, w)?;
        let attention = format!("{}.{}", block.prefix, self.names.attention);
        let (packed, packed_bias) = (format!("{attention}.qkv.weight"), format!("{attention}.qkv.bias"));
        let fused = t.is_fused();
        let mut project = |part: usize| -> Result<Value, ExportError> {
            let name = format!("{attention}.{}", PARTS[part]);
            let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
            // In fused graphs biases of keys and values are folded away, see `Tower::attention_out`.
            let bias = (part == 0 || !fused).then_some(bias.as_str());
            let rows = t.project(
                &normed,
                &Linear { weight: &weight, bias, sizes: [inner, w] },
                |r| {
                    let rows = &r.get(&packed, &[3 * w, w])?[part * w * w..(part + 1) * w * w];
                    Ok(pad_head_rows(rows, dim, padded, w))
                },
                |r| {
                    let rows = &r.get(&packed_bias, &[3 * w])?[part * w..(part + 1) * w];
                    Ok(pad_head_rows(rows, dim, padded, 1))
                },
            )?;
            Ok(t.as_batch(&rows, self.config.tokens(), inner))
        };
        let qkv = [project(0)?, project(1)?, project(2)?];
        let out = t.image_attention(block, [&qkv[0], &qkv[1], &qkv[2]], self.config.tokens());
        let out = t.as_rows(&out, inner);
        let name = format!("{attention}.{}", self.names.projection);
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let out = t.product(
            &out,
            &Linear { weight: &weight, bias: Some(&bias), sizes: [w, inner] },
            |r| Ok(pad_head_columns(&r.get(&weight, &[w, w])?, dim, padded)),
            |r| {
                let plain = r.get(&bias, &[w])?;
                if !fused {
                    return Ok(plain);
                }
                let values = &r.get(&packed_bias, &[3 * w])?[2 * w..];
                Ok(add_product(&plain, &r.get(&weight, &[w, w])?, values))
            },
        )?;
        Ok(t.add_to_stream(&x, out))
    }

    /// Adds the MLP of a layer.
    fn mlp(&self, t: &mut Tower<'_>, block: &Block, stream: &Stream) -> Result<Stream, ExportError> {
        let (prefix, w) = (&block.prefix, block.width);
        let (normed, x) = t.norm_stream(&format!("{prefix}.{}", self.names.mlp_norm), stream, w)?;
        let hidden = t.linear(&format!("{prefix}.mlp.fc1"), &normed, [block.mlp_width, w], None)?;
        let active = t.activate(hidden);
        let out = t.linear(&format!("{prefix}.mlp.fc2"), &active, [w, block.mlp_width], None)?;
        Ok(t.add_to_stream(&x, out))
    }
}
