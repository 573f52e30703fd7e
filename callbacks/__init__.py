"""Callbacks for any Keras 3 model.

```python
from zoo.callbacks import GradientNorms

gradients = GradientNorms()
model.fit(x, y, callbacks=[gradients])
print(gradients.diagnose())
```
"""

from .exact_resume import ExactResume
from .gradient_norms import GradientNorms
from .shuffled_batches import ShuffledBatches

__all__ = ["ExactResume", "GradientNorms", "ShuffledBatches"]
