//! The exponential moving average of the tensors that training changes.

use rayon::prelude::*;
use regraft_engine::MovingAverage;

use super::Parameters;

impl Parameters {
    /// Takes the tensors after a step into the average.
    pub fn update_average(&mut self, average: MovingAverage) {
        let decay = average.decay as f32;
        let restart = average.restart || !self.averages;
        self.averages = true;
        self.all.par_iter_mut().filter(|it| it.changes).for_each(|it| {
            if restart {
                it.average.clone_from(&it.values);
            } else {
                let pairs = it.average.iter_mut().zip(&it.values);
                pairs.for_each(|(average, &value)| *average = decay * *average + (1.0 - decay) * value);
            }
        });
    }

    /// Whether the average stands in the place of the trained tensors.
    pub fn average_in_use(&self) -> bool {
        self.average_in_use
    }

    /// Exchanges the average and the trained tensors, if the average is not used as asked.
    pub fn use_average(&mut self, on: bool) {
        if self.averages && self.average_in_use != on {
            let changing = self.all.iter_mut().filter(|it| it.changes);
            changing.for_each(|it| std::mem::swap(&mut it.values, &mut it.average));
            self.average_in_use = on;
            self.version += 1;
        }
    }
}
