#!/bin/sh
# Regenerates ../src/proto/onnx.rs from onnx.proto, without a protoc on the machine.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/src" "$scratch/out"
cat > "$scratch/Cargo.toml" <<'EOF'
[package]
name = "onnx-proto-generator"
version = "0.0.0"
edition = "2024"
[dependencies]
protox = "0.9"
prost-build = "0.14"
EOF
cat > "$scratch/src/main.rs" <<'EOF'
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let files = protox::compile(["onnx.proto"], [&args[1]]).expect("onnx.proto compiles");
    prost_build::Config::new().out_dir(&args[2]).compile_fds(files).expect("code is generated");
}
EOF
cargo run --quiet --manifest-path "$scratch/Cargo.toml" -- "$here" "$scratch/out"
cp "$scratch/out/onnx.rs" "$here/../src/proto/onnx.rs"
