//! Draws a collection into a folder, and a sheet with some pictures of every kind, one kind a row, to look at:
//! `cargo run --release -p regraft-flowers --example contact_sheet -- FOLDER [PER_KIND [SIDE]]`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;
use std::{env, fs, io};

use regraft_flowers::{KINDS, draw, write_collection};

/// Pictures of each kind on the sheet.
const COLUMNS: usize = 12;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("the folder to draw into"));
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (per_kind, side) = (number(80), number(160));

    let start = Instant::now();
    write_collection(&folder.join("flowers"), per_kind, 0, side as u32, |_| ())?;
    println!("{} pictures in {:.1} s", KINDS.len() * per_kind, start.elapsed().as_secs_f64());

    let row = COLUMNS * side * 3;
    let mut sheet = vec![0; KINDS.len() * side * row];
    for kind in 0..KINDS.len() {
        for column in 0..COLUMNS {
            let picture = draw(kind, column as u64, 0, side as u32);
            for (y, line) in picture.chunks_exact(side * 3).enumerate() {
                let at = (kind * side + y) * row + column * side * 3;
                sheet[at..at + side * 3].copy_from_slice(line);
            }
        }
    }
    let mut file = fs::File::create(folder.join("sheet.ppm"))?;
    writeln!(file, "P6 {} {} 255", COLUMNS * side, KINDS.len() * side)?;
    file.write_all(&sheet)
}
