//! Any bytes as Parquet input, and as an archive that may be packed: samples, rejects and an end that agree with each other,
//! or an error; never a panic that gets out, never more memory than the limits allow.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use recaption_input::{read::{InputFormat, ReadRequest, ReadSettings, read_shard}, shards::list_shards};
use recaption_messages::{ByteBudget, ReadCounters, ReadItem, ReadSink};
use recaption_store::Stores;
use tokio::{runtime::Runtime, sync::mpsc};

/// Name of the threads that decode.
const BLOCKING: &str = "decodes";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // libFuzzer ends at every panic. Those of the decoder are caught, on the runtime's blocking threads, and count as damaged
    // bytes; all others are defects.
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(BLOCKING) {
            abort(panic);
        }
    }));
    tokio::runtime::Builder::new_current_thread().enable_all().thread_name(BLOCKING).build().expect("a runtime")
});

async fn read(data: &[u8], name: &str, format: InputFormat) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    memory.put(&Path::from(name), data.to_vec().into()).await.expect("memory");
    let mut stores = Stores::default().wrapped(Arc::new(move |_| Arc::clone(&memory)));
    let Ok(shards) = list_shards(&mut stores, &[format!("/{name}")], InputFormat::Webdataset).await else { return };
    let mut settings = ReadSettings { format, ..ReadSettings::default() };
    settings.tar.max_member_bytes = 1 << 16;
    let (to, mut found) = mpsc::channel(4);
    let (budget, counters) = (ByteBudget::new(1 << 20), ReadCounters::default());
    let counting = async {
        let mut next = 0;
        while let Some(found) = found.recv().await {
            let index = match found {
                ReadItem::Sample(sample) => {
                    assert!(sample.image.len() <= 1 << 16);
                    sample.index
                }
                ReadItem::Ended(result) => result.index,
            };
            assert_eq!(index, next, "in order, each once");
            next += 1;
        }
        next
    };
    let reading = async move {
        // Moved in: the counting ends when the reading does.
        let sink = ReadSink::Ordered(to);
        let request = ReadRequest {
            number: 0,
            shard: &shards[0],
            settings: &settings,
            budget: &budget,
            counters: &counters,
            previous: None,
            sink: &sink,
        };
        read_shard(request).await
    };
    let (end, count) = tokio::join!(reading, counting);
    if let Ok(end) = end {
        assert_eq!(end.samples, count);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    RUNTIME.block_on(async {
        match first % 3 {
            0 => read(rest, "x", InputFormat::Auto).await,
            1 => read(rest, "x.parquet", InputFormat::Parquet).await,
            _ => read(rest, "x.tar", InputFormat::Webdataset).await,
        }
    });
});
