//! Writes the seeds of every target into the corpus folder that is given: `seeds tests/fuzz/corpus`.

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let folder = env::args()
        .nth(1)
        .ok_or_else(|| io::Error::other("usage: seeds CORPUS_FOLDER"))?;
    for target in causeway_fuzz::TARGETS {
        let folder = Path::new(&folder).join(target.name);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in (target.seeds)() {
            fs::write(folder.join(format!("seed-{name}")), bytes)?;
        }
    }
    Ok(())
}
