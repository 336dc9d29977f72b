-- KEYS: window
-- Returns the largest id that the window ever gave; '' where there is no window.
--#include session/last_given.lua
local window = KEYS[1]
if redis.call('EXISTS', window) == 0 then return '' end
return last_given(window)
