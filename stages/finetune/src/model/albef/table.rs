//! Names, shapes and initial values of an ALBEF's tensors, under the authors' names.
//!
//! Momentum copies and queues are entries of the same list that are never trained, so that checkpoints of a run hold them like
//! any other parameter. Tied tensors stand in the list once; [`TIED`] names the others, which files repeat.

use recaption_onnx::checkpoint::{Init, Parameter};

use super::config::AlbefConfig;

/// Suffix of a momentum copy's modules.
pub const MOMENTUM_SUFFIX: &str = "_m";
/// The queue of image features, `[E, Q]`.
pub const IMAGE_QUEUE: &str = "image_queue";
/// The queue of text features, `[E, Q]`.
pub const TEXT_QUEUE: &str = "text_queue";
/// Column of the queues that the next feature replaces; an integer in files, and exact as f32 in a run.
pub const QUEUE_POSITION: &str = "queue_ptr";
/// The temperature.
pub const TEMPERATURE: &str = "temp";
/// Modules that have a momentum copy.
pub const COPIED: [&str; 4] = ["visual_encoder", "vision_proj", "text_encoder", "text_proj"];
/// Tensors that files repeat under a second name, below `text_encoder.`: the second name and the first.
pub const TIED: [(&str, &str); 2] = [
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
];

/// Standard deviation of initial matrices at the authors' width of 768 (`trunc_normal_`, BERT's `initializer_range`).
const STD: f32 = 0.02;
/// The width that [`STD`] is for; at another width the deviation is that of inverse square roots.
const WIDTH_OF_STD: f32 = 768.0;
/// Initial standard deviation of the image encoder's class token and positions, as in CoCa's: the authors begin with DeiT's
/// weights, and from their 0.02 small models are slow to learn positions.
const IMAGE_POSITION_STD: f32 = 0.5;

/// Returns every tensor of an ALBEF, each once: the model, its momentum copy, the queues.
#[must_use]
pub fn parameters(c: &AlbefConfig) -> Vec<Parameter> {
    let mut list = Vec::new();
    let mut add = |name: String, shape: &[usize], init: Init| {
        list.push(Parameter { name, shape: shape.to_vec(), init });
    };
    image_encoder(c, &mut add);
    text_encoder(c, &mut add);
    linear(&mut add, "vision_proj", c.embed_dim, c.vision_width);
    linear(&mut add, "text_proj", c.embed_dim, c.bert.hidden_size);
    linear(&mut add, "itm_head", 2, c.bert.hidden_size);
    add(TEMPERATURE.into(), &[], Init::Constant(c.temp as f32));
    let copies: Vec<Parameter> = list.iter().filter_map(copy_of).collect();
    list.extend(copies);
    for name in [IMAGE_QUEUE, TEXT_QUEUE] {
        let shape = vec![c.embed_dim, c.queue_size];
        list.push(Parameter { name: name.into(), shape, init: Init::Normal(1.0) });
    }
    list.push(Parameter { name: QUEUE_POSITION.into(), shape: vec![1], init: Init::Zeros });
    list
}

/// Returns the name of a parameter's momentum copy, if it has one.
#[must_use]
pub fn copy_name(name: &str) -> Option<String> {
    let (module, rest) = name.split_once('.')?;
    COPIED.contains(&module).then(|| format!("{module}{MOMENTUM_SUFFIX}.{rest}"))
}

fn copy_of(parameter: &Parameter) -> Option<Parameter> {
    Some(Parameter { name: copy_name(&parameter.name)?, ..parameter.clone() })
}

/// Returns whether a parameter is trained: it is neither a momentum copy nor a queue.
#[must_use]
pub fn is_trained(name: &str) -> bool {
    let module = name.split('.').next().unwrap_or(name);
    !module.ends_with(MOMENTUM_SUFFIX) && ![IMAGE_QUEUE, TEXT_QUEUE, QUEUE_POSITION].contains(&name)
}

/// Adds a tensor: name, shape, initial values.
type Add<'a> = dyn FnMut(String, &[usize], Init) + 'a;

/// Initial values of a matrix with `width` inputs.
fn matrix(width: usize) -> Init {
    Init::Normal(STD * (WIDTH_OF_STD / width as f32).sqrt())
}

fn linear(add: &mut Add<'_>, name: &str, outputs: usize, inputs: usize) {
    add(format!("{name}.weight"), &[outputs, inputs], matrix(inputs));
    add(format!("{name}.bias"), &[outputs], Init::Zeros);
}

fn norm(add: &mut Add<'_>, name: &str, width: usize) {
    add(format!("{name}.weight"), &[width], Init::Ones);
    add(format!("{name}.bias"), &[width], Init::Zeros);
}

fn image_encoder(c: &AlbefConfig, add: &mut Add<'_>) {
    let (width, patch) = (c.vision_width, c.patch_size);
    let tokens = c.grid() * c.grid() + 1;
    let name = |rest: &str| format!("visual_encoder.{rest}");
    add(name("cls_token"), &[1, 1, width], Init::Normal(IMAGE_POSITION_STD));
    add(name("pos_embed"), &[1, tokens, width], Init::Normal(IMAGE_POSITION_STD));
    let pixels = 3 * patch * patch;
    add(name("patch_embed.proj.weight"), &[width, 3, patch, patch], Init::Normal((pixels as f32).powf(-0.5)));
    add(name("patch_embed.proj.bias"), &[width], Init::Zeros);
    if c.vision_norm_pre {
        norm(add, &name("norm_pre"), width);
    }
    for block in 0..c.vision_depth {
        let name = |rest: &str| format!("visual_encoder.blocks.{block}.{rest}");
        norm(add, &name("norm1"), width);
        linear(add, &name("attn.qkv"), 3 * width, width);
        linear(add, &name("attn.proj"), width, width);
        norm(add, &name("norm2"), width);
        linear(add, &name("mlp.fc1"), 4 * width, width);
        linear(add, &name("mlp.fc2"), width, 4 * width);
    }
    norm(add, &name("norm"), width);
}

fn text_encoder(c: &AlbefConfig, add: &mut Add<'_>) {
    let b = &c.bert;
    let width = b.hidden_size;
    for (table, rows) in [
        ("word_embeddings", b.vocab_size),
        ("position_embeddings", b.max_position_embeddings),
        ("token_type_embeddings", b.type_vocab_size),
    ] {
        add(format!("text_encoder.bert.embeddings.{table}.weight"), &[rows, width], matrix(width));
    }
    norm(add, "text_encoder.bert.embeddings.LayerNorm", width);
    for layer in 0..b.num_hidden_layers {
        let name = |rest: &str| format!("text_encoder.bert.encoder.layer.{layer}.{rest}");
        attention(add, &name("attention"), width, width);
        if layer >= b.fusion_layer {
            attention(add, &name("crossattention"), width, b.encoder_width);
        }
        linear(add, &name("intermediate.dense"), b.intermediate_size, width);
        linear(add, &name("output.dense"), width, b.intermediate_size);
        norm(add, &name("output.LayerNorm"), width);
    }
    let head = "text_encoder.cls.predictions";
    add(format!("{head}.bias"), &[b.vocab_size], Init::Zeros);
    linear(add, &format!("{head}.transform.dense"), width, width);
    norm(add, &format!("{head}.transform.LayerNorm"), width);
}

/// Adds one attention whose keys and values have `context` columns.
fn attention(add: &mut Add<'_>, name: &str, width: usize, context: usize) {
    linear(add, &format!("{name}.self.query"), width, width);
    linear(add, &format!("{name}.self.key"), width, context);
    linear(add, &format!("{name}.self.value"), width, context);
    linear(add, &format!("{name}.output.dense"), width, width);
    norm(add, &format!("{name}.output.LayerNorm"), width);
}
