"""Callbacks for any Keras 3 model.

```python
from zoo.callbacks import GradientNorms

norms = GradientNorms()
model.fit(x, y, callbacks=[norms])
print(norms.diagnose())
```
"""

from .gradients import GradientNorms
from .resume import ExactResume, ShuffledBatches

__all__ = ["ExactResume", "GradientNorms", "ShuffledBatches"]
