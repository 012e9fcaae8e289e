//! The scripts in `deploy/`: what they call is done, with the binary in the place of a cluster's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Folder, file_at, floats};

const TASKS: usize = 3;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

/// A model in a folder whose name needs quoting.
fn model(folder: &Folder, name: &str) {
    std::fs::create_dir_all(folder.path(name)).unwrap();
    let tensors = ["a.weight", "b.weight", "c.weight"].map(|name| floats(name, "F32", &[64, 64], 1));
    folder.write(&format!("{name}/model.safetensors"), &file_at(&tensors, &[], 0));
}

fn script(folder: &Folder, name: &str, text: &str) {
    let path = folder.path(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// PATH with the folder's `bin` before it, in which `wgquant` is our binary.
fn path_with(folder: &Folder) -> String {
    std::fs::create_dir_all(folder.path("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_wgquant"), folder.path("bin/wgquant")).unwrap();
    format!("{}:{}", folder.path("bin").display(), std::env::var("PATH").unwrap())
}

#[test]
fn the_slurm_script_runs_all_tasks_and_finishes() {
    let folder = Folder::new();
    model(&folder, "my model's");
    let path = path_with(&folder);
    // It does at once what sbatch would queue.
    let sbatch = r#"#!/bin/sh
        for word in "$@"; do case $word in --wrap=*) command=${word#--wrap=};; --array=1-*) n=${word#--array=1-};; esac; done
        export SLURM_CPUS_PER_TASK=1
        if [ -z "${n:-}" ]; then sh -c "$command" >&2 || exit 1; else
            i=1; while [ $i -le $n ]; do SLURM_ARRAY_TASK_ID=$i sh -c "$command" || exit 1; i=$((i + 1)); done
        fi
        echo 123"#;
    script(&folder, "bin/sbatch", sbatch);
    let mut run = Command::new("sh");
    run.arg(deploy("slurm.sh")).args([
        "my model's",
        "out",
        "--format",
        "nf4",
        "--shard-size",
        "3kB",
        "--device",
        "cpu",
    ]);
    let done = run.current_dir(folder.root()).env("PATH", path).env("TASKS", TASKS.to_string()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    folder.ok(&["verify", "my model's", "out"]);
    assert!(folder.path("out/model-00003-of-00003.safetensors").exists());
}

/// Its shell lines, run with the folder in the place of the volume.
#[test]
fn the_kubernetes_manifest_runs_all_tasks_and_finishes() {
    let folder = Folder::new();
    model(&folder, "models/my-model");
    let path = path_with(&folder);
    let text = std::fs::read_to_string(deploy("kubernetes.yaml")).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let command = |first: &str| {
        let at = lines.iter().position(|line| line.starts_with(first)).unwrap();
        let line = lines[at..].iter().take_while(|line| !line.contains(": ") && !line.ends_with(':')).copied();
        let line = line.collect::<Vec<_>>().join(" ");
        line.replace("/models", folder.path("models").to_str().unwrap()).replace("2GB", "3kB")
    };
    let run = |command: &str, index: usize| {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PATH", &path).env("TASKS", TASKS.to_string());
        let done = shell.env("JOB_COMPLETION_INDEX", index.to_string()).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    };
    for index in [2, 0, 1] {
        run(&command("exec wgquant quantize"), index);
    }
    run(&command("exec wgquant finish"), 0);
    folder.ok(&["verify", "models/my-model", "models/my-model-nf4"]);
    assert!(folder.path("models/my-model-nf4/model-00003-of-00003.safetensors").exists());
    let completions = text.lines().find_map(|line| line.trim().strip_prefix("completions: ")).unwrap();
    assert!(text.contains(&format!("name: TASKS, value: \"{completions}\"")), "one number in two places");
}

/// The variables that the Dockerfile sets and the command that it runs, with folders of this test in the place of the image's.
#[test]
fn the_dockerfile_runs_the_service() {
    let folder = Folder::with("token", b"a-token-of-some-length");
    let text = std::fs::read_to_string(deploy("Dockerfile")).unwrap();
    let value = |name: &str| {
        let at = text.find(name).unwrap_or_else(|| panic!("{name} is not set")) + name.len();
        text[at..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(value("WGQUANT_LISTEN="), "0.0.0.0:8787");
    assert!(text.contains("EXPOSE 8787\n"));
    // Stores that speak TLS are trusted by the system's certificates.
    assert!(text.contains(" ca-certificates "));
    assert!(text.contains("ENTRYPOINT [\"/usr/local/bin/wgquant\", \"serve\"]\n"));
    assert!(text.contains("COPY --from=build /source/target/release/wgquant /usr/local/bin/wgquant\n"));
    assert!(value("WGQUANT_STATE=").starts_with("/var/lib/") && value("WGQUANT_TOKEN_FILE=").starts_with("/run/"));
    let state = folder.path("state");
    let variables = [
        // A port that is free, as the image has all of its own.
        ("WGQUANT_LISTEN", "0.0.0.0:0"),
        ("WGQUANT_STATE", state.to_str().unwrap()),
        ("WGQUANT_TOKEN_FILE", folder.path("token").to_str().unwrap()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    crate::service::answers(&folder, &["serve", "--root", "."], &variables, "a-token-of-some-length");
    // Without the secret it does not start.
    std::fs::remove_file(folder.path("token")).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_wgquant"));
    let output = run.args(["serve", "--device", "cpu"]).envs(variables).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("token: can't be read"));
}

/// The command that the unit runs, with the credential where systemd would put it.
#[test]
fn the_systemd_unit_runs_the_service() {
    let folder = Folder::with("token", b"a-token-of-some-length");
    let text = std::fs::read_to_string(deploy("wgquant.service")).unwrap();
    let command = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    assert!(text.contains("StateDirectory=wgquant\n") && text.contains("LoadCredential=token:"));
    let root = command.split(' ').skip_while(|&word| word != "--root").nth(1).unwrap();
    assert!(text.contains(&format!("ReadWritePaths={root}\n")), "jobs may write there");
    let command = command.replace("${CREDENTIALS_DIRECTORY}", folder.root().to_str().unwrap());
    let command = command.replace(root, ".").replace(":8787", ":0");
    let words: Vec<_> = command.split(' ').collect();
    assert_eq!(words[0], "/usr/local/bin/wgquant");
    let variables = [("STATE_DIRECTORY".to_owned(), folder.path("state").to_str().unwrap().to_owned())];
    crate::service::answers(&folder, &words[1..], &variables, "a-token-of-some-length");
    assert!(folder.path("state/tmp").is_dir());
}
