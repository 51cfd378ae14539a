import runpy
import sys

del sys.path[0]
sys.path.append("/usr/lib/python3/dist-packages")
runpy.run_module("olddefconfig", run_name="__main__")
