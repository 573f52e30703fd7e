"""Callbacks for any Keras 3 model.

```python
from zoo.callbacks import GradientNorms

gradients = GradientNorms()
model.fit(x, y, callbacks=[gradients])
print(gradients.diagnose())
```
"""

from .exact_resume import ExactResume, ShuffledBatches
from .gradient_norms import GradientNorms

__all__ = ["ExactResume", "GradientNorms", "ShuffledBatches"]
