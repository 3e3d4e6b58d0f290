//! The list of a checkpoint's tensors: names and shapes as in open_clip and torch, and initial values for training from
//! scratch.
//!
//! The exporter reads tensors one by one where its graphs need them; `tests/parameters.rs` compares the two with each other and
//! with open_clip's files. Linear layers are `[out, in]`, projections without bias `[in, out]`. Towers of timm and of transformers have
//! the names that the exporter reads, see `timm_names` and `siglip::names`.

use super::config::{
    DecoderConfig, EmbeddingProjection, ImageBlocks, ImagePooling, ModelConfig, PoolerConfig, PoolerKind,
    TextConfig, TextPooling, VisionConfig,
};

/// Initial standard deviation of token embeddings.
const TOKEN_STD: f32 = 0.02;
/// Initial standard deviation of the image tower's class token and positions. Patches of normalised pixels come out of
/// `conv1` with about unit variance, and this is half of it, as in the text tower. With open_clip's width^-0.5, a tenth, small
/// models were slow to learn positions (numbers:
/// `docs/src/decisions/0038-image-position-initialisation.md`).
const IMAGE_POSITION_STD: f32 = 0.5;
/// Initial standard deviation of a text's position embeddings and class token.
const POSITION_STD: f32 = 0.01;

/// Initial values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Samples of a normal distribution with mean 0 and this standard deviation.
    Normal(f32),
    /// Ones.
    Ones,
    /// Zeros.
    Zeros,
    /// This constant.
    Constant(f32),
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Name in open_clip.
    pub name: String,
    /// Shape, row-major; `[]` of a scalar.
    pub shape: Vec<usize>,
    /// Initial values.
    pub init: Init,
}

impl Parameter {
    /// Returns the number of values, 1 of a scalar.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

impl ModelConfig {
    /// Returns every tensor of a checkpoint with this configuration, each once, in the order of the data flow: image tower, text
    /// tower, decoder, temperature. A CLIP has neither poolers nor decoder.
    ///
    /// `init` is that of open_clip 3.3.0 where its towers initialise themselves, and CLIP's rule for the image tower's blocks,
    /// which open_clip leaves to torch's defaults; the image tower's positions are larger. The standard deviation of projections,
    /// also of the poolers, is the -0.5th power of their input's width.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut table = Table(Vec::new());
        table.vision(&self.vision, self.embed_dim);
        table.text(&self.text, self.embed_dim);
        if let Some(decoder) = &self.decoder {
            table.decoder(decoder, self.text.vocab_size);
        }
        table.add("logit_scale", &[], Init::Constant(self.init_logit_scale));
        if let Some(bias) = self.init_logit_bias {
            table.add("logit_bias", &[], Init::Constant(bias));
        }
        table.0
    }
}

/// Sizes that the residual blocks of a tower share.
struct Blocks {
    width: usize,
    mlp_width: usize,
    /// Depth of the tower, which scales the layers that write into the residual.
    layers: usize,
    layer_scale: Option<f32>,
}

/// Returns `width^-0.5`.
fn per_width(width: usize) -> f32 {
    (width as f32).powf(-0.5)
}

struct Table(Vec<Parameter>);

impl Table {
    fn add(&mut self, name: impl Into<String>, shape: &[usize], init: Init) {
        self.0.push(Parameter { name: name.into(), shape: shape.to_vec(), init });
    }

    fn layer_norm(&mut self, prefix: &str, width: usize) {
        self.add(format!("{prefix}.weight"), &[width], Init::Ones);
        self.add(format!("{prefix}.bias"), &[width], Init::Zeros);
    }

    /// Adds `weight [out, in]` and `bias [out]`.
    fn linear(&mut self, prefix: &str, [out, input]: [usize; 2], std: f32) {
        self.add(format!("{prefix}.weight"), &[out, input], Init::Normal(std));
        self.add(format!("{prefix}.bias"), &[out], Init::Zeros);
    }

    fn vision(&mut self, v: &VisionConfig, embed_dim: usize) {
        let (width, patch) = (v.width, v.patch_size);
        if v.class_token {
            self.add("visual.class_embedding", &[width], Init::Normal(IMAGE_POSITION_STD));
        }
        let places = [v.tokens(), width];
        self.add("visual.positional_embedding", &places, Init::Normal(IMAGE_POSITION_STD));
        let pixels = 3 * patch * patch;
        self.add("visual.conv1.weight", &[width, 3, patch, patch], Init::Normal(per_width(pixels)));
        if v.patch_bias {
            self.add("visual.conv1.bias", &[width], Init::Zeros);
        }
        if v.ln_pre {
            self.layer_norm("visual.ln_pre", width);
        }
        let blocks = Blocks { width, mlp_width: v.mlp_width, layers: v.layers, layer_scale: v.layer_scale };
        for layer in 0..v.layers {
            self.image_block(&format!("visual.transformer.resblocks.{layer}"), v.blocks, &blocks);
        }
        let pooled = match v.pooler {
            None => width,
            Some(p) => {
                self.poolers(p, width, embed_dim);
                embed_dim
            }
        };
        self.layer_norm("visual.ln_post", pooled);
        if let ImagePooling::Attention { mlp_width, .. } = v.pooling {
            self.attention_pool(v.width, mlp_width);
        }
        self.projection("visual.proj", v.projection, [pooled, embed_dim]);
    }

    /// Adds the pooling by a query: the query, an attention and an MLP.
    fn attention_pool(&mut self, w: usize, mlp_width: usize) {
        let prefix = "visual.attn_pool";
        self.add(format!("{prefix}.query"), &[1, w], Init::Normal(per_width(w)));
        self.add(format!("{prefix}.attn.in_proj_weight"), &[3 * w, w], Init::Normal(per_width(w)));
        self.add(format!("{prefix}.attn.in_proj_bias"), &[3 * w], Init::Zeros);
        self.linear(&format!("{prefix}.attn.out_proj"), [w, w], per_width(w));
        self.layer_norm(&format!("{prefix}.ln_2"), w);
        self.linear(&format!("{prefix}.mlp.c_fc"), [mlp_width, w], per_width(2 * w));
        self.linear(&format!("{prefix}.mlp.c_proj"), [w, mlp_width], per_width(w));
    }

    fn poolers(&mut self, p: PoolerConfig, width: usize, embed_dim: usize) {
        self.pooler("visual.attn_pool", p.queries, width, embed_dim);
        let context = match p.kind {
            PoolerKind::Released => return,
            PoolerKind::Parallel => width,
            PoolerKind::Cascade => embed_dim,
        };
        self.pooler("visual.attn_pool_contrastive", 1, context, embed_dim);
        self.layer_norm("visual.ln_post_contrastive", embed_dim);
    }

    /// Adds a pooler that attends to tokens of width `context`; `nn.MultiheadAttention` packs its weights if that is its own
    /// width.
    fn pooler(&mut self, prefix: &str, queries: usize, context: usize, embed_dim: usize) {
        let e = embed_dim;
        self.add(format!("{prefix}.query"), &[queries, e], Init::Normal(1.0));
        self.layer_norm(&format!("{prefix}.ln_q"), e);
        self.layer_norm(&format!("{prefix}.ln_k"), context);
        if context == e {
            self.add(format!("{prefix}.attn.in_proj_weight"), &[3 * e, e], Init::Normal(per_width(e)));
        } else {
            for (part, input) in [("q", e), ("k", context), ("v", context)] {
                let init = Init::Normal(per_width(input));
                self.add(format!("{prefix}.attn.{part}_proj_weight"), &[e, input], init);
            }
        }
        self.add(format!("{prefix}.attn.in_proj_bias"), &[3 * e], Init::Zeros);
        self.linear(&format!("{prefix}.attn.out_proj"), [e, e], per_width(e));
    }

    fn text(&mut self, text: &TextConfig, embed_dim: usize) {
        let (width, prefix) = (text.width, text.prefix);
        let tokens = [text.vocab_size, width];
        self.add(format!("{prefix}token_embedding.weight"), &tokens, Init::Normal(TOKEN_STD));
        // The class token follows the context and has a position of its own.
        let class = usize::from(text.pooling == TextPooling::ClassToken);
        let places = [text.context_length + class, width];
        self.add(format!("{prefix}positional_embedding"), &places, Init::Normal(POSITION_STD));
        if text.pooling == TextPooling::ClassToken {
            self.add(format!("{prefix}cls_emb"), &[width], Init::Normal(POSITION_STD));
        }
        let blocks =
            Blocks { width, mlp_width: text.mlp_width, layers: text.layers, layer_scale: text.layer_scale };
        for layer in 0..text.layers {
            self.block(&format!("{prefix}transformer.resblocks.{layer}"), &blocks, false);
        }
        self.layer_norm(&format!("{prefix}ln_final"), width);
        self.projection(&format!("{prefix}text_projection"), text.projection, [width, embed_dim]);
    }

    /// Adds the projection of a pooled token, `[W, E]`.
    fn projection(&mut self, name: &str, projection: EmbeddingProjection, [width, embed_dim]: [usize; 2]) {
        let init = Init::Normal(per_width(width));
        match projection {
            EmbeddingProjection::None => {}
            EmbeddingProjection::Matrix => self.add(name, &[width, embed_dim], init),
            EmbeddingProjection::Linear { bias } => {
                self.add(format!("{name}.weight"), &[embed_dim, width], init);
                if bias {
                    self.add(format!("{name}.bias"), &[embed_dim], Init::Zeros);
                }
            }
        }
    }

    fn decoder(&mut self, d: &DecoderConfig, vocab_size: usize) {
        let width = d.width;
        // open_clip ignores the decoder's `mlp_ratio`.
        let blocks = Blocks { width, mlp_width: 4 * width, layers: d.layers, layer_scale: d.layer_scale };
        for layer in 0..d.layers {
            self.block(&format!("text_decoder.resblocks.{layer}"), &blocks, false);
            self.block(&format!("text_decoder.cross_attn.{layer}"), &blocks, true);
        }
        self.layer_norm("text_decoder.ln_final", width);
        let init = Init::Normal(per_width(width));
        self.add("text_decoder.text_projection", &[width, vocab_size], init);
    }

    /// Adds a residual block; one that attends to the image has a separate LayerNorm for keys and values.
    fn block(&mut self, prefix: &str, b: &Blocks, cross: bool) {
        let width = b.width;
        let residual_std = per_width(width) * per_width(2 * b.layers);
        self.layer_norm(&format!("{prefix}.ln_1"), width);
        if cross {
            self.layer_norm(&format!("{prefix}.ln_1_kv"), width);
        }
        let init = Init::Normal(per_width(width));
        self.add(format!("{prefix}.attn.in_proj_weight"), &[3 * width, width], init);
        self.add(format!("{prefix}.attn.in_proj_bias"), &[3 * width], Init::Zeros);
        self.linear(&format!("{prefix}.attn.out_proj"), [width, width], residual_std);
        self.layer_scale(&format!("{prefix}.ls_1"), b);
        self.layer_norm(&format!("{prefix}.ln_2"), width);
        self.linear(&format!("{prefix}.mlp.c_fc"), [b.mlp_width, width], per_width(2 * width));
        self.linear(&format!("{prefix}.mlp.c_proj"), [width, b.mlp_width], residual_std);
        self.layer_scale(&format!("{prefix}.ls_2"), b);
    }

    /// Adds a block of an image tower.
    fn image_block(&mut self, prefix: &str, kind: ImageBlocks, b: &Blocks) {
        if kind.has_key_bias() {
            return self.block(prefix, b, false);
        }
        let width = b.width;
        let init = Init::Normal(per_width(width));
        self.layer_norm(&format!("{prefix}.ln_1"), width);
        self.add(format!("{prefix}.attn.in_proj_weight"), &[3 * width, width], init);
        self.add(format!("{prefix}.attn.q_bias"), &[width], Init::Zeros);
        self.add(format!("{prefix}.attn.v_bias"), &[width], Init::Zeros);
        if kind == ImageBlocks::SubNorm {
            self.layer_norm(&format!("{prefix}.attn.ln_inner"), width);
        }
        self.linear(&format!("{prefix}.attn.out_proj"), [width, width], per_width(width));
        self.layer_norm(&format!("{prefix}.ln_2"), width);
        if kind == ImageBlocks::SubNorm {
            self.linear(&format!("{prefix}.mlp.c_gate"), [b.mlp_width, width], per_width(width));
            self.layer_norm(&format!("{prefix}.mlp.ln_inner"), b.mlp_width);
        }
        self.linear(&format!("{prefix}.mlp.c_fc"), [b.mlp_width, width], per_width(width));
        self.linear(&format!("{prefix}.mlp.c_proj"), [width, b.mlp_width], per_width(b.mlp_width));
    }

    fn layer_scale(&mut self, prefix: &str, b: &Blocks) {
        if let Some(value) = b.layer_scale {
            self.add(format!("{prefix}.gamma"), &[b.width], Init::Constant(value));
        }
    }
}
