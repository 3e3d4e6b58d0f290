//! Lists the shards that patterns name, and prints the keys of their samples.
//!
//! ```text
//! cargo run --release -p recaption-input --example list_shards -- 'data/{00000..00003}.tar' photos/
//! ```

use std::{error::Error, process::ExitCode};

use recaption_input::{
    format::InputFormat,
    read::{ReadRequest, ReadSettings, read_shard},
    shards::{ShardRef, list_shards},
};
use recaption_messages::{ByteBudget, ReadCounters, ReadItem, ReadSink, SampleOutcome};
use recaption_store::Stores;
use tokio::sync::mpsc;

/// Samples between reader and printer.
const QUEUE: usize = 16;
/// Bytes of samples in flight.
const BUDGET_BYTES: usize = 64 << 20;

fn main() -> ExitCode {
    let patterns: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(print_all(&patterns)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("list_shards: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn print_all(patterns: &[String]) -> Result<(), Box<dyn Error>> {
    if patterns.is_empty() {
        return Err("usage: list_shards PATTERN...".into());
    }
    let shards = list_shards(&mut Stores::default(), patterns, InputFormat::Auto).await?;
    for (number, shard) in shards.iter().enumerate() {
        println!("{} ({} bytes)", shard.url, shard.size());
        print_keys(number, shard).await?;
    }
    Ok(())
}

async fn print_keys(number: usize, shard: &ShardRef) -> Result<(), Box<dyn Error>> {
    let (settings, counters) = (ReadSettings::default(), ReadCounters::default());
    let budget = ByteBudget::new(BUDGET_BYTES);
    let (sender, mut items) = mpsc::channel(QUEUE);
    let reading = async {
        let sink = ReadSink::Ordered(sender);
        let (settings, budget, counters, sink) = (&settings, &budget, &counters, &sink);
        read_shard(ReadRequest { number, shard, settings, budget, counters, previous: None, sink }).await
    };
    let printing = async move {
        while let Some(item) = items.recv().await {
            match item {
                ReadItem::Sample(sample) => println!("  {}: {} bytes", sample.key, sample.image.len()),
                ReadItem::Ended(result) => {
                    if let SampleOutcome::Reject(reject) = result.outcome {
                        println!("  {}: rejected, {}: {}", reject.key, reject.reason, reject.detail);
                    }
                }
            }
        }
    };
    let (contents, ()) = tokio::join!(reading, printing);
    println!("  {} samples", contents?.samples);
    Ok(())
}
