//! The report for people.

use std::fmt::{Display, Formatter, Result};

use indicatif::{HumanBytes, HumanCount};

use super::{
    forecast::{Cost, Forecast},
    images::Images,
    memory::Memory,
    report::PlanReport,
};

/// Column of everything that belongs to the line above.
const INDENT: &str = "          ";

impl Display for PlanReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if !self.output.is_empty() {
            writeln!(f, "output    {}", self.output)?;
        }
        self.fmt_work(f)?;
        fmt_images(&self.images, f)?;
        for redo in &self.redo {
            writeln!(f, "redo      {} shards: {}", redo.shards, redo.why)?;
            for shard in &redo.examples {
                writeln!(f, "{INDENT}  {shard}")?;
            }
        }
        self.fmt_resources(f)?;
        if let Some(forecast) = &self.forecast {
            fmt_forecast(forecast, self.images.is_estimate, f)?;
        }
        for note in &self.notes {
            writeln!(f, "note      {note}")?;
        }
        for problem in &self.problems {
            writeln!(f, "problem   {}: {}", problem.subject.as_str(), problem.place)?;
            writeln!(f, "{INDENT}{}", problem.what)?;
            writeln!(f, "{INDENT}-> {}", problem.remedy)?;
        }
        match self.problems.len() {
            0 => writeln!(f, "ready     a run finds everything that it needs"),
            1 => writeln!(f, "not ready 1 problem"),
            n => writeln!(f, "not ready {n} problems"),
        }
    }
}

impl PlanReport {
    fn fmt_work(&self, f: &mut Formatter<'_>) -> Result {
        let (shards, bytes) = (&self.shards, &self.bytes);
        write!(f, "shards    {} = {} done + {} pending", shards.total, shards.done, shards.pending)?;
        if shards.not_selected > 0 {
            write!(f, "; {} not selected", shards.not_selected)?;
        }
        if shards.orphaned > 0 {
            write!(f, "; {} of the output are no longer among the inputs", shards.orphaned)?;
        }
        let [total, done, pending] = [bytes.total, bytes.done, bytes.pending].map(HumanBytes);
        writeln!(f, "\nbytes     {total} = {done} done + {pending} pending")
    }

    fn fmt_resources(&self, f: &mut Formatter<'_>) -> Result {
        if let Some(compute) = &self.compute {
            let devices: Vec<String> = compute.devices.iter().map(u32::to_string).collect();
            let on = match devices.is_empty() {
                true => compute.provider.to_owned(),
                false => format!("{}, GPU {}", compute.provider, devices.join(", ")),
            };
            let (copies, threads) = (compute.copies, compute.threads_per_copy);
            let copies = if copies == 1 {
                "one copy of the model".into()
            } else {
                format!("{copies} copies of the model")
            };
            let threads = if threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
            writeln!(
                f,
                "compute   {on}: {copies}, each with {threads} and {} images at a time",
                compute.images_per_copy
            )?;
        }
        if let Some(memory) = &self.memory {
            fmt_memory(memory, f)?;
        }
        if let Some(disk) = &self.disk {
            let (needed, free) = (HumanBytes(disk.needed_bytes), HumanBytes(disk.free_bytes));
            writeln!(f, "disk      about {needed} for the pending shards' rows; {free} free")?;
        }
        Ok(())
    }
}

fn about(is_estimate: bool) -> &'static str {
    if is_estimate { "about " } else { "" }
}

fn fmt_images(images: &Images, f: &mut Formatter<'_>) -> Result {
    let [total, done, pending] = [images.total, images.done, images.pending].map(HumanCount);
    let about = about(images.is_estimate);
    writeln!(f, "images    {about}{total} = {done} done + {about}{pending} pending")?;
    for source in &images.sources {
        let how = if source.is_estimate { "estimated from" } else { "counted by" };
        let (images, shards) = (HumanCount(source.images), source.shards);
        writeln!(f, "{INDENT}{images} in {shards} shards, {how} {}", source.source)?;
    }
    Ok(())
}

fn fmt_memory(memory: &Memory, f: &mut Formatter<'_>) -> Result {
    let (needed, most) = (HumanBytes(memory.needed_bytes), HumanBytes(memory.most_bytes));
    write!(f, "memory    {needed}, at most {most}")?;
    if let Some(machine) = &memory.machine {
        let (limit, free) = (HumanBytes(machine.limit_bytes), HumanBytes(machine.free_bytes));
        write!(f, "; this {} has {limit}, {free} free", machine.limited_by)?;
    }
    if memory.gpu_bytes > 0 {
        write!(f, "; {} on each GPU", HumanBytes(memory.gpu_bytes))?;
    }
    writeln!(f)?;
    for one in memory.uses.iter().filter(|one| one.bytes > 0) {
        let most = if one.is_bound { "at most " } else { "" };
        writeln!(f, "{INDENT}{most}{} {}", HumanBytes(one.bytes), one.what)?;
    }
    Ok(())
}

fn fmt_forecast(forecast: &Forecast, is_estimate: bool, f: &mut Formatter<'_>) -> Result {
    let about = about(is_estimate);
    let (rate, from) = (forecast.images_per_second, &forecast.rate_from);
    writeln!(
        f,
        "time      {about}{} on this machine, at {rate:.1} images/s ({from})",
        hours(forecast.hours)
    )?;
    for one in forecast.workers.iter().filter(|one| one.workers > 1) {
        writeln!(f, "{INDENT}{about}{} with {} workers like it", hours(one.hours), one.workers)?;
    }
    if let Some(Cost { price_per_hour, total, per_million_images }) = forecast.cost {
        writeln!(
            f,
            "cost      {about}{total:.2} at {price_per_hour} per hour and worker; {per_million_images:.2} per million images"
        )?;
    }
    Ok(())
}

/// Returns hours as `12.3 h`, or minutes or seconds where there are few.
fn hours(hours: f64) -> String {
    if hours >= 1.0 {
        format!("{hours:.1} h")
    } else if hours * 60.0 >= 1.0 {
        format!("{:.0} min", hours * 60.0)
    } else {
        format!("{:.0} s", hours * 3600.0)
    }
}

#[cfg(test)]
mod tests {
    use super::hours;

    #[test]
    fn short_times_have_smaller_units() {
        assert_eq!([100.04, 0.5, 0.001].map(hours), ["100.0 h", "30 min", "4 s"]);
    }
}
