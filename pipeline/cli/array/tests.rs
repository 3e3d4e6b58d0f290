use super::*;

/// Resolves flags (index, count, steal) in an environment.
fn resolve(
    (task_index, task_count, steal): (Option<u32>, Option<u32>, Option<bool>),
    exclusive: Exclusive,
    environment: &[(&str, &str)],
) -> Result<Resolved, String> {
    let args = ArrayArgs { task_index, task_count, steal };
    let variable =
        |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    args.resolve_with(exclusive, &variable).map_err(|error| error.to_string())
}

/// Resolves an environment without flags.
fn detected(environment: &[(&str, &str)]) -> Result<Resolved, String> {
    resolve((None, None, None), Exclusive::default(), environment)
}

fn task(index: u32, count: u32, steal: bool) -> ArrayTask {
    ArrayTask { index, count, steal }
}

/// A Slurm array's environment: id, first, last, step and count.
fn slurm<'a>(
    id: &'a str,
    first: &'a str,
    last: &'a str,
    step: &'a str,
    count: &'a str,
) -> [(&'a str, &'a str); 5] {
    [
        ("SLURM_ARRAY_TASK_ID", id),
        ("SLURM_ARRAY_TASK_MIN", first),
        ("SLURM_ARRAY_TASK_MAX", last),
        ("SLURM_ARRAY_TASK_STEP", step),
        ("SLURM_ARRAY_TASK_COUNT", count),
    ]
}

#[track_caller]
fn fails(resolved: Result<Resolved, String>, words: &[&str]) {
    let error = resolved.expect_err("an error");
    for word in words {
        assert!(error.contains(word), "{word:?} is missing in: {error}");
    }
}

/// Names and values of variables.
type Environment<'a> = &'a [(&'a str, &'a str)];

#[test]
fn schedulers_name_their_tasks() {
    let cases: [(Environment<'_>, &str, (u32, u32)); 8] = [
        (&slurm("3", "0", "7", "1", "8"), "Slurm", (3, 8)), // --array=0-7%2 has the same variables
        (&slurm("10", "10", "12", "1", "3"), "Slurm", (0, 3)),
        (&slurm("5", "1", "7", "2", "4"), "Slurm", (2, 4)),
        (&slurm("12", "2", "12", "5", "3"), "Slurm", (2, 3)),
        (&[("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_COUNT", "4")], "Slurm", (2, 4)),
        (&[("AWS_BATCH_JOB_ARRAY_INDEX", "0"), ("AWS_BATCH_JOB_ARRAY_SIZE", "2")], "AWS Batch", (0, 2)),
        (&[("CLOUD_RUN_TASK_INDEX", "9"), ("CLOUD_RUN_TASK_COUNT", "10")], "Cloud Run", (9, 10)),
        (&[("JOB_COMPLETION_INDEX", "1"), ("RECAPTION_TASK_COUNT", "3")], "Kubernetes", (1, 3)),
    ];
    for (environment, scheduler, (index, count)) in cases {
        let expected = Resolved::Detected(task(index, count, true), scheduler);
        assert_eq!(detected(environment), Ok(expected), "{environment:?}");
    }
}

#[test]
fn slurm_lists_with_gaps_have_a_place_for_every_number() {
    // --array=1,5,6
    let list = slurm("5", "1", "6", "1", "3");
    assert_eq!(detected(&list), Ok(Resolved::Detected(task(4, 6, true), "Slurm")));
    fails(resolve((None, None, Some(false)), Exclusive::default(), &list), &["SLURM_ARRAY_TASK_ID", "gaps"]);
    // A step that does not fit is none.
    let odd = slurm("6", "1", "6", "4", "3");
    assert_eq!(detected(&odd), Ok(Resolved::Detected(task(5, 6, true), "Slurm")));
    let given = resolve((None, Some(6), Some(false)), Exclusive::default(), &list);
    assert_eq!(given, Ok(Resolved::Detected(task(4, 6, false), "Slurm")));
}

#[test]
fn nothing_is_detected_outside_of_array_jobs() {
    let alone: [Environment<'_>; 6] = [
        &[],
        // Slurm jobs that are no arrays, and variables that are set but empty.
        &[("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "1"), ("SLURM_ARRAY_TASK_COUNT", "4")],
        &[("SLURM_ARRAY_TASK_ID", ""), ("JOB_COMPLETION_INDEX", " ")],
        &[("AWS_BATCH_JOB_ID", "x"), ("AWS_BATCH_JOB_ARRAY_SIZE", "4")],
        // A Cloud Run job of one task, and an array of one.
        &[("CLOUD_RUN_TASK_INDEX", "0"), ("CLOUD_RUN_TASK_COUNT", "1")],
        &slurm("7", "7", "7", "1", "1"),
    ];
    for environment in alone {
        assert_eq!(detected(environment), Ok(Resolved::Alone), "{environment:?}");
    }
}

#[test]
fn inner_schedulers_come_before_kubernetes() {
    let mut environment = vec![
        ("JOB_COMPLETION_INDEX", "5"),
        ("CLOUD_RUN_TASK_INDEX", "4"),
        ("CLOUD_RUN_TASK_COUNT", "40"),
        ("AWS_BATCH_JOB_ARRAY_INDEX", "3"),
        ("AWS_BATCH_JOB_ARRAY_SIZE", "30"),
        ("SLURM_ARRAY_TASK_ID", "2"),
        ("SLURM_ARRAY_TASK_MIN", "0"),
        ("SLURM_ARRAY_TASK_COUNT", "20"),
    ];
    assert_eq!(detected(&environment), Ok(Resolved::Detected(task(2, 20, true), "Slurm")));
    environment.truncate(5);
    assert_eq!(detected(&environment), Ok(Resolved::Detected(task(3, 30, true), "AWS Batch")));
    environment.truncate(3);
    assert_eq!(detected(&environment), Ok(Resolved::Detected(task(4, 40, true), "Cloud Run")));
    environment.truncate(1);
    fails(detected(&environment), &["JOB_COMPLETION_INDEX", "Kubernetes does not tell", "--task-count"]);
}

#[test]
fn flags_win_over_the_environment() {
    let environment = slurm("3", "0", "7", "1", "8");
    let of = |flags| resolve(flags, Exclusive::default(), &environment);
    assert_eq!(of((Some(1), Some(2), None)), Ok(Resolved::Given(task(1, 2, true))));
    assert_eq!(of((None, Some(16), None)), Ok(Resolved::Detected(task(3, 16, true), "Slurm")));
    assert_eq!(of((None, None, Some(false))), Ok(Resolved::Detected(task(3, 8, false), "Slurm")));
    assert_eq!(of((None, Some(1), None)), Ok(Resolved::Alone), "turned off");
    assert_eq!(of((None, Some(1), Some(false))), Ok(Resolved::Alone));
    assert_eq!(of((Some(0), Some(1), None)), Ok(Resolved::Alone), "an array of one");
    // Variables that flags make needless are not read.
    let broken = [("SLURM_ARRAY_TASK_ID", "x"), ("RECAPTION_TASK_COUNT", "y")];
    let given = resolve((Some(1), Some(2), None), Exclusive::default(), &broken);
    assert_eq!(given, Ok(Resolved::Given(task(1, 2, true))));
    assert_eq!(resolve((None, Some(1), None), Exclusive::default(), &broken), Ok(Resolved::Alone));
}

#[test]
fn half_given_flags_are_errors() {
    let of = |flags, environment: &[(&str, &str)]| resolve(flags, Exclusive::default(), environment);
    fails(of((Some(3), None, None), &[]), &["--task-index", "give --task-count with --task-index 3"]);
    // Slurm's count belongs to Slurm's index.
    fails(of((Some(3), None, None), &slurm("3", "0", "7", "1", "8")), &["give --task-count"]);
    fails(of((None, Some(4), None), &[]), &["--task-count", "which of the 4 tasks", "--task-index"]);
    fails(
        of((None, None, None), &[("RECAPTION_TASK_COUNT", "4")]),
        &["RECAPTION_TASK_COUNT", "--task-index"],
    );
    fails(of((None, None, Some(false)), &[]), &["--steal", "--task-index and --task-count"]);
    assert_eq!(of((None, None, Some(true)), &[]), Ok(Resolved::Alone));
    let with_count = of((Some(3), None, None), &[("RECAPTION_TASK_COUNT", "4")]);
    assert_eq!(with_count, Ok(Resolved::Given(task(3, 4, true))));
}

#[test]
fn indices_beyond_the_count_are_errors() {
    let of = |flags, environment: &[(&str, &str)]| resolve(flags, Exclusive::default(), environment);
    fails(of((Some(4), Some(4), None), &[]), &["--task-index", "task 4 of 4 does not exist"]);
    fails(of((Some(1), Some(1), None), &[]), &["task 1 of 1 does not exist"]);
    let batch = [("AWS_BATCH_JOB_ARRAY_INDEX", "2"), ("AWS_BATCH_JOB_ARRAY_SIZE", "2")];
    fails(of((None, None, None), &batch), &["AWS_BATCH_JOB_ARRAY_INDEX", "task 2 of 2"]);
    fails(
        of((None, Some(3), None), &[("JOB_COMPLETION_INDEX", "3")]),
        &["JOB_COMPLETION_INDEX", "task 3 of 3"],
    );
    fails(of((None, None, None), &[("RECAPTION_TASK_COUNT", "0")]), &["at least one task"]);
    fails(of((None, None, None), &slurm("0", "1", "4", "1", "4")), &["SLURM_ARRAY_TASK_MIN = 1"]);
    let many = [("CLOUD_RUN_TASK_INDEX", "0"), ("CLOUD_RUN_TASK_COUNT", "99999999999")];
    fails(of((None, None, None), &many), &["too many"]);
}

#[test]
fn variables_that_are_no_numbers_are_errors() {
    let names = [
        "SLURM_ARRAY_TASK_ID",
        "AWS_BATCH_JOB_ARRAY_INDEX",
        "CLOUD_RUN_TASK_INDEX",
        "JOB_COMPLETION_INDEX",
        "RECAPTION_TASK_COUNT",
    ];
    for name in names {
        for value in ["x", "-1", "1.5", "0x1"] {
            fails(detected(&[(name, value)]), &[name, value, "--task-count 1"]);
        }
    }
    fails(
        detected(&[("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_STEP", "x")]),
        &["SLURM_ARRAY_TASK_STEP"],
    );
}

#[test]
fn flags_of_one_process_do_not_go_with_a_given_task() {
    let environment = slurm("3", "0", "7", "1", "8");
    let lock = Exclusive { lock: true, ..Exclusive::default() };
    let limit = Exclusive { limit: true, ..Exclusive::default() };
    fails(resolve((Some(0), Some(2), None), lock, &[]), &["--lock", "exit at once"]);
    fails(resolve((Some(0), Some(2), None), limit, &[]), &["--limit", "use --sample"]);
    // What is only detected gives way: the same command works outside of an array job.
    assert_eq!(resolve((None, None, None), lock, &environment), Ok(Resolved::Ignored("Slurm", "--lock")));
    assert_eq!(resolve((None, None, None), limit, &environment), Ok(Resolved::Ignored("Slurm", "--limit")));
    fails(resolve((None, None, Some(false)), lock, &environment), &["--lock"]);
    assert_eq!(resolve((Some(0), Some(1), None), lock, &environment), Ok(Resolved::Alone));
}
