//! What the targets share: a hostile file, through everything that reads it.

use std::path::PathBuf;

/// Writes `bytes` under `name` in memory-backed storage and lets every reader have it. Whatever they say is fine; a
/// crash, a hang or an allocation beyond the file's size is not.
pub fn read_hostile(name: &str, bytes: &[u8]) {
    let path = folder().join(name);
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    let _ = wgquant::checkpoint::inspect(&path);
    let _ = wgquant::checkpoint::verify(&path, &path, &mut |_| {});
}

/// A folder of this process's own.
fn folder() -> PathBuf {
    static FOLDER: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let shared = PathBuf::from("/dev/shm");
            let parent = if shared.is_dir() { shared } else { std::env::temp_dir() };
            let folder = parent.join(format!("wgquant-fuzz-{}", std::process::id()));
            // It exists already only if an earlier process had the same number.
            let _ = std::fs::create_dir(&folder);
            folder
        })
        .clone()
}

/// A safetensors file of this header and data.
pub fn safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}
