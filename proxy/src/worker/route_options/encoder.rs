//! A body while it is compressed, part by part. Nothing is held back when there is a pause.

use std::cell::Cell;
use std::io::{self, Write};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::encoding::Encoding;

/// As much as can be had without waiting for it: each takes a millisecond or less for 50 KB.
const BROTLI_QUALITY: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 4;
/// 2^17 = 128 KiB of what was before: for pages of the usual size there is no more, and each body that
/// is on its way has that much memory.
const WINDOW_LOG: u32 = 17;
/// Bodies that one worker thread compresses at once; more go as they are.
const MAX_ENCODERS: usize = 256;

pub struct Encoder<'a> {
    coder: Coder,
    /// Something was taken that has not come out.
    is_dirty: bool,
    _entered: Entered<'a>,
}

enum Coder {
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl<'a> Encoder<'a> {
    /// `None` where too many are at work. `count` is of those of this thread.
    pub fn new(encoding: Encoding, count: &'a Cell<usize>) -> Option<Self> {
        let entered = Entered::enter(count)?;
        let coder = match encoding {
            Encoding::Brotli => Coder::Brotli(Box::new(CompressorWriter::new(
                Vec::new(),
                4096,
                BROTLI_QUALITY,
                WINDOW_LOG,
            ))),
            Encoding::Zstd => Coder::Zstd(zstd().ok()?),
            Encoding::Gzip => Coder::Gzip(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL))),
        };
        Some(Encoder { coder, is_dirty: false, _entered: entered })
    }

    /// What comes out of it now, which may be nothing.
    ///
    /// # Errors
    /// None that can be met: it writes to memory.
    pub fn take(&mut self, data: &[u8]) -> io::Result<Bytes> {
        self.is_dirty = true;
        self.coder.writer().write_all(data)?;
        Ok(self.coder.drain())
    }

    /// All that was taken; nothing where that has come out already.
    ///
    /// # Errors
    /// As [`Encoder::take`].
    pub fn flush(&mut self) -> io::Result<Bytes> {
        if std::mem::take(&mut self.is_dirty) {
            self.coder.writer().flush()?;
        }
        Ok(self.coder.drain())
    }

    /// The end of the body, with its last part.
    ///
    /// # Errors
    /// As [`Encoder::take`].
    pub fn finish(mut self, data: &[u8]) -> io::Result<Bytes> {
        self.coder.writer().write_all(data)?;
        let rest = match self.coder {
            Coder::Brotli(coder) => coder.into_inner(),
            Coder::Zstd(coder) => coder.finish()?,
            Coder::Gzip(coder) => coder.finish()?,
        };
        Ok(rest.into())
    }
}

fn zstd() -> io::Result<ZstdEncoder<'static, Vec<u8>>> {
    let mut coder = ZstdEncoder::new(Vec::new(), ZSTD_LEVEL)?;
    coder.window_log(WINDOW_LOG)?;
    Ok(coder)
}

impl Coder {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Coder::Brotli(coder) => coder.as_mut(),
            Coder::Zstd(coder) => coder,
            Coder::Gzip(coder) => coder,
        }
    }

    fn drain(&mut self) -> Bytes {
        let made = match self {
            Coder::Brotli(coder) => coder.get_mut(),
            Coder::Zstd(coder) => coder.get_mut(),
            Coder::Gzip(coder) => coder.get_mut(),
        };
        std::mem::take(made).into()
    }
}

struct Entered<'a>(&'a Cell<usize>);

impl<'a> Entered<'a> {
    fn enter(count: &'a Cell<usize>) -> Option<Self> {
        (count.get() < MAX_ENCODERS).then(|| {
            count.set(count.get() + 1);
            Entered(count)
        })
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const ALL: [Encoding; 3] = [Encoding::Brotli, Encoding::Zstd, Encoding::Gzip];

    fn decoded(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reader: Box<dyn Read + '_> = match encoding {
            Encoding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Encoding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).expect("zstd")),
            Encoding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        };
        // Of a body that has not ended, what there is.
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            out.extend_from_slice(&buffer[..count]);
        }
        out
    }

    #[test]
    fn bodies_come_out_as_they_went_in() {
        let count = Cell::new(0);
        for encoding in ALL {
            let mut encoder = Encoder::new(encoding, &count).expect("there is room");
            let (mut went, mut came) = (Vec::new(), Vec::new());
            for part in 0..200 {
                let part = format!("<p>line {part} of the page</p>\n").repeat(50);
                went.extend_from_slice(part.as_bytes());
                came.extend_from_slice(&encoder.take(part.as_bytes()).expect("memory"));
            }
            went.extend_from_slice(b"the end");
            came.extend_from_slice(&encoder.finish(b"the end").expect("memory"));
            assert_eq!(decoded(encoding, &came), went, "{encoding:?}");
            assert!(came.len() < went.len() / 10, "{encoding:?}: {}", came.len());
        }
        assert_eq!(count.get(), 0);
    }

    #[test]
    fn a_pause_holds_nothing_back() {
        let count = Cell::new(0);
        for encoding in ALL {
            let mut encoder = Encoder::new(encoding, &count).expect("there is room");
            let mut came = encoder.take(b"a first line\n").expect("memory").to_vec();
            came.extend_from_slice(&encoder.flush().expect("memory"));
            assert_eq!(decoded(encoding, &came), b"a first line\n", "{encoding:?}");
            assert!(encoder.flush().expect("memory").is_empty(), "{encoding:?}");
        }
    }

    #[test]
    fn no_more_are_at_work_than_may() {
        let count = Cell::new(MAX_ENCODERS - 1);
        let last = Encoder::new(Encoding::Gzip, &count);
        assert!(last.is_some() && Encoder::new(Encoding::Gzip, &count).is_none());
        drop(last);
        assert!(Encoder::new(Encoding::Gzip, &count).is_some());
    }
}
